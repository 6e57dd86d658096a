#include "experiments/first_states.h"

#include <algorithm>
#include <cmath>

#include "autograd/tape.h"
#include "core/base/parallel_for.h"
#include "core/comm/lists.h"

namespace ls::experiments {
namespace {

bool is_cache(const layers::StateSlot& slot) {
  return slot.part == layers::StatePart::kKeyValue;
}

/// Rows of a block, of which each rank has one.
Index block_rows(Index rows, int ranks) {
  return (rows + ranks - 1) / ranks;
}

/// Of a state [rows,...]: entries of the axis behind the rows, heads or channels, and what each of
/// them holds.
struct Heads {
  explicit Heads(const Shape& shape)
      : count(shape.rank() > 1 ? shape[1] : 1),
        each(shape.numel() / std::max<Index>(1, shape[0] * count)) {}
  Index count, each;
};

}  // namespace

FirstStates::FirstStates(const RunPart& part)
    : part_(part),
      config_(part.config.state),
      data_(part.mesh.data()),
      shares_(part.shares_states()) {
  if (!config_.by_row()) {
    return;
  }
  zeros_ = part.model->state_after(1);
  std::erase_if(zeros_.slots, [](const auto& s) { return is_cache(s.second); });
  for (auto& [path, slot] : zeros_.slots) {
    slot.value = ag::Var(slot.value.value().clone().zero_());
  }
}

Index FirstStates::entry(Index row, Index rows) const {
  const int ranks = data_.size();
  if (!shares_) {
    return row - data::first_row(rows, data_.rank(), ranks);
  }
  for (int r = 0; r < ranks; ++r) {
    if (row < data::first_row(rows, r + 1, ranks)) {
      return r * block_rows(rows, ranks) + row - data::first_row(rows, r, ranks);
    }
  }
  LS_FAIL(kInternal, "row {} of {}", row, rows);
}

std::vector<PieceStarts> FirstStates::plan(const data::Batch& batch,
                                           std::span<const data::Batch> pieces, RunState& state) {
  if (!config_.by_row()) {
    return {};
  }
  const Index before = state.carried_rows;
  if (config_.fitted > 0 && before > 0 && batch.step % config_.fit_every == 1) {
    fit(state, batch.step - 1);
  }
  const std::vector<RowStart> rows =
      row_starts(config_, part_.seed, batch.step, batch.global_rows, before);
  std::vector<PieceStarts> out;
  for (const data::Batch& piece : pieces) {
    PieceStarts& starts = out.emplace_back();
    const std::span<const RowStart> own(rows.data() + piece.first_row,
                                        static_cast<std::size_t>(piece.rows));
    layers::StretchPlace& place = starts.place;
    place.documents = piece.documents;
    for (std::size_t r = 0; r < own.size(); ++r) {
      const RowStart& row = own[r];
      const bool goes_on = row.mode == Start::kTbptt && row.source >= 0;
      const Index at = row.source < 0 ? -1 : entry(row.source, before);
      starts.entries.push_back(at);
      place.seen.push_back(
          goes_on ? state.carried.position[static_cast<std::size_t>(
                        row.source - data::first_row(before, data_.rank(), data_.size()))]
                  : 0);
      // Zeros in place of what the model says where states are learned.
      const bool given = row.mode == Start::kGaussian || row.mode == Start::kFitted ||
                         row.mode == Start::kPassed ||
                         (row.mode == Start::kZero && config_.learned > 0);
      place.begun.push_back(given || place.seen.back() > 0);
      // The front of a row is no border between documents, unless what came before is known.
      const bool fixed = row.mode == Start::kTbptt || row.mode == Start::kLearned;
      if (!fixed && !place.documents.empty() && !place.documents[r].empty() &&
          place.documents[r].front() == 0) {
        place.documents[r].erase(place.documents[r].begin());
      }
    }
    if (config_.noise()) {
      starts.noise = noise(piece, own, batch.step, state);
    }
  }
  return out;
}

std::map<std::string, Tensor> FirstStates::noise(const data::Batch& piece,
                                                 std::span<const RowStart> rows, Index step,
                                                 const RunState& state) const {
  const bool fitted_now = step % config_.fit_every != 0;
  std::map<std::string, Tensor> out;
  for (const auto& [path, slot] : zeros_.slots) {
    Shape shape = slot.value.shape();
    const Heads heads(shape);
    shape[0] = piece.rows;
    const auto fit = state.fit.find(path);
    Tensor wide = Tensor::zeros(shape, DType::kF64);
    double* const x = wide.data<double>();
    parallel_for(piece.rows, row_grain(heads.count * heads.each), [&](Index begin, Index end) {
      for (Index r = begin; r < end; ++r) {
        const Start mode = rows[static_cast<std::size_t>(r)].mode;
        const bool fits = mode == Start::kFitted && fitted_now && fit != state.fit.end();
        if (mode != Start::kGaussian && !fits) {
          continue;
        }
        const std::span<double> row(x + r * heads.count * heads.each,
                                    static_cast<std::size_t>(heads.count * heads.each));
        draw_noise(part_.seed, path, step, piece.first_row + r, row);
        for (Index i = 0; i < std::ssize(row); ++i) {
          const auto h = static_cast<std::size_t>(i / heads.each);
          double& value = row[static_cast<std::size_t>(i)];
          value = fits ? fit->second.mean[h] + fit->second.std[h] * value : config_.std * value;
        }
      }
    });
    out.emplace(path, wide.to(slot.value.dtype()));
  }
  return out;
}

void FirstStates::fit(RunState& state, Index step) const {
  const Index before = state.carried_rows;
  const std::vector<RowStart> rows = row_starts(config_, part_.seed, step, before, 0);
  const Index first = data::first_row(before, data_.rank(), data_.size());
  const Index end = data::first_row(before, data_.rank() + 1, data_.size());
  for (const auto& [path, zeros] : zeros_.slots) {
    const Heads heads(zeros.value.shape());
    std::vector<double> sums(static_cast<std::size_t>(2 * heads.count + 1), 0);
    const auto slot = state.carried.slots.find(path);
    const std::vector<double> x = slot == state.carried.slots.end()
                                      ? std::vector<double>()
                                      : slot->second.value.value().to_vector<double>();
    for (Index r = first; r < end && !x.empty(); ++r) {
      const Start mode = rows[static_cast<std::size_t>(r)].mode;
      if (mode != Start::kFitted && mode != Start::kZero) {
        continue;
      }
      const double* const row = x.data() + entry(r, before) * heads.count * heads.each;
      for (Index i = 0; i < heads.count * heads.each; ++i) {
        sums[static_cast<std::size_t>(i / heads.each)] += row[i];
        sums[static_cast<std::size_t>(heads.count + i / heads.each)] += row[i] * row[i];
      }
      sums.back() += static_cast<double>(heads.each);
    }
    data_.all_reduce(sums.data(), std::ssize(sums), DType::kF64);
    if (sums.back() == 0) {
      continue;  // no row began from zeros
    }
    StateFit& fit = state.fit[path];
    fit = {};
    for (Index h = 0; h < heads.count; ++h) {
      const double mean = sums[static_cast<std::size_t>(h)] / sums.back();
      const double square = sums[static_cast<std::size_t>(heads.count + h)] / sums.back();
      fit.mean.push_back(mean);
      fit.std.push_back(std::sqrt(std::max(0.0, square - mean * mean)));
    }
  }
}

const layers::ModelState& FirstStates::base(const layers::ModelState& kept) const {
  const bool needs = config_.noise() || (config_.learned > 0 && config_.by_row());
  return kept.slots.empty() && needs ? zeros_ : kept;
}

layers::ModelState FirstStates::of(const layers::ModelState& base, const Tensor& index,
                                   const std::map<std::string, Tensor>& noise) {
  const ag::NoGrad no_grad;
  layers::ModelState out;
  for (const auto& [path, slot] : base.slots) {
    layers::StateSlot& to = out.slots.emplace(path, slot).first->second;
    to.value = layers::entries(slot.value, index);
    if (const auto added = noise.find(path); added != noise.end()) {
      to.value.mutable_value().add_(added->second);
    }
  }
  return out;
}

layers::ModelState FirstStates::kept(const std::vector<layers::ModelState>& ends,
                                     Index rows) const {
  if (!config_.keeps()) {
    return {};
  }
  layers::ModelState out = layers::ModelState::stacked(ends);
  if (!config_.streams()) {
    std::erase_if(out.slots, [](const auto& s) { return is_cache(s.second); });
  }
  if (!shares_) {
    return out;
  }
  const int ranks = data_.size();
  const Index block = block_rows(rows, ranks);
  TensorList mine, all;
  for (const auto& [path, zeros] : zeros_.slots) {
    layers::StateSlot& slot = out.slots.emplace(path, zeros).first->second;
    const Tensor& value = slot.value.value();
    const Index here = ends.empty() ? 0 : value.size(0);
    Shape shape = value.shape();
    shape[0] = block;
    mine.push_back(Tensor::zeros(shape, value.dtype(), value.device()));
    if (here > 0) {
      mine.back().slice(0, 0, here).copy_(value);
    }
    shape[0] = block * ranks;
    all.push_back(Tensor::empty(shape, value.dtype(), value.device()));
    slot.value = ag::Var(all.back());
  }
  begin_all_gather(data_, mine, all).wait();
  return out;
}

}  // namespace ls::experiments
