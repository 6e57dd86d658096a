#include "experiments/needs.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "core/base/memory.h"
#include "core/base/profile.h"
#include "core/tensor/allocator.h"
#include "experiments/pass.h"
#include "experiments/progress.h"

namespace ls::experiments {
namespace {

constexpr Index kTrialSegments = 3;
/// A batch and what is told of its tokens: tokens, labels, predictions and losses, of a segment and
/// of the whole.
constexpr double kBytesPerToken = 40;
/// A growing cache has half as much room again, and is copied into a new one when that is full.
constexpr double kRoom = 2.5;
constexpr Index kProbe =
    256;  ///< tokens of each row that are run before it is known what they take
constexpr double kPlaces = 4096;

Index longest_of(const data::Slice& slice) {
  return std::max(slice.length, slice.max_length);
}

/// Bytes of the process, or of the pool that the model's device has.
double bytes_held(Device& device) {
  if (&device == &cpu()) {
    return static_cast<double>(resident_bytes());
  }
  const auto* pool = dynamic_cast<const BlockPool*>(&current_stream(device).allocator());
  return pool != nullptr ? static_cast<double>(pool->reserved_bytes()) : 0;
}

data::Batch zeros(const layers::Model& model, Index rows, Index length) {
  const layers::ModelInterface& io = model.interface();
  data::Batch batch;
  batch.rows = rows;
  batch.length = length;
  if (io.vocab_in > 0) {
    batch.tokens = Tensor::zeros({rows, length}, DType::kI64);
  } else {
    batch.vectors = Tensor::zeros({rows, length, io.vector_width}, DType::kF32);
  }
  batch.labels = Tensor::zeros({rows, length}, DType::kI64);
  return batch;
}

/// Bytes by the token of the states that grow, over all rows.
double growing_bytes(const layers::ModelState& state, Index tokens) {
  double bytes = 0;
  for (const auto& [path, slot] : state.slots) {
    bytes += slot.grows ? static_cast<double>(slot.value.value().bytes()) : 0;
  }
  return bytes / static_cast<double>(tokens);
}

bool has_growing_states(layers::Model& model) {
  const layers::ModelState state = model.state_after(1);
  return std::ranges::any_of(state.slots, [](const auto& slot) { return slot.second.grows; });
}

}  // namespace

/// One model, and what its passes show.
class NeedsModel::Trial {
 public:
  Trial(layers::Model& model, const ScanConfig& scan, Index rows)
      : model_(model), scan_(scan), rows_(rows) {}

  /// So many tokens behind `state`, which moves on.
  Works run(Index tokens, layers::ModelState& state) {
    using Clock = std::chrono::steady_clock;
    Device& device = model_.parameters().device();
    const data::Batch batch = zeros(model_, rows_, tokens);
    const PeakWatch peak;
    const auto begin = Clock::now();
    profile::start();
    pass(model_, batch, scan_, state, {.keep = true});
    const std::vector<profile::Entry> entries = profile::stop();
    seconds_ = std::chrono::duration<double>(Clock::now() - begin).count();
    const bool host = &device == &cpu();
    most_ = std::max({most_, host ? static_cast<double>(peak.bytes()) : 0, bytes_held(device)});
    Works works;
    double flops = 0, in_ops = 0;
    for (const profile::Entry& e : entries) {
      if (e.flops > 0) {
        works[e.name].flops += e.flops;
        works[e.name].seconds += e.seconds;
        flops += e.flops;
        in_ops += e.seconds;
      }
    }
    if (host) {
      works[""].seconds = seconds_ - in_ops;
    } else {  // the host's clock says when work was put there; what all of it took is known
      for (auto& [name, work] : works) {
        work.seconds = seconds_ * work.flops / flops;
      }
    }
    return works;
  }
  double seconds() const { return seconds_; }  ///< of the last pass
  double most() const { return most_; }        ///< bytes, of all

 private:
  layers::Model& model_;
  const ScanConfig& scan_;
  Index rows_;
  double seconds_ = 0, most_ = 0;
};

namespace {

/// Bytes of the states that do not grow: they stand still once windows are full.
Index bounded_bytes(const layers::ModelState& state) {
  Index bytes = 0;
  for (const auto& [path, slot] : state.slots) {
    bytes += slot.grows ? 0 : slot.value.value().bytes();
  }
  return bytes;
}

/// Caches as after so many tokens; everything else as it is.
layers::ModelState grown_to(const layers::ModelState& state, Index tokens) {
  layers::ModelState out = state;
  for (auto& [path, slot] : out.slots) {
    if (slot.grows) {
      Shape shape = slot.value.shape();
      shape[1] = shape[1] / state.position.front() * tokens;
      slot.value = ag::Var(Tensor::zeros(shape, slot.value.dtype(), slot.value.value().device()));
    }
  }
  std::ranges::fill(out.position, tokens);
  return out;
}

}  // namespace

NeedsModel::NeedsModel(layers::Model& model, const ScanConfig& scan, Index segment, Index rows,
                       Index longest, const Needs& limits, Communicator& comm)
    : segment_(segment), rows_(rows), longest_(longest), causal_(model.causal()) {
  Trial trial(model, scan, rows);
  Device& device = model.parameters().device();
  held_ = comm.reduce_value(bytes_held(device), ReduceOp::kMax);
  const auto working = [&](double growing) {
    return std::max(0.0, comm.reduce_value(trial.most(), ReduceOp::kMax) - held_ - growing);
  };
  tokens_ = std::min(segment, kProbe);
  layers::ModelState state;
  if (tokens_ < segment) {
    trial.run(tokens_, state);
    const double times = static_cast<double>(segment) / static_cast<double>(tokens_);
    const double seconds = comm.reduce_value(trial.seconds(), ReduceOp::kMax);
    const bool fits = held_ + working(0) * times <= limits.bytes &&
                      seconds * times * kTrialSegments <= limits.seconds;
    tokens_ = fits ? segment : tokens_;
    state = {};
  }
  // Segments that began with full windows: the last two say how work goes on.
  const Index enough = std::max<Index>(kTrialSegments, longest / tokens_);
  Index full = 0;
  for (Index before = -1; std::ssize(near_) < kTrialSegments || full < 2;) {
    if (!causal_) {
      state = {};
    }
    near_.push_back(trial.run(tokens_, state));
    const Index bytes = bounded_bytes(state);
    full += bytes == before || !causal_;
    before = bytes;
    if (std::ssize(near_) >= enough) {
      break;
    }
  }
  grows_ = causal_ &&
           std::ranges::any_of(state.slots, [](const auto& slot) { return slot.second.grows; });
  const Index tried = tokens_ * std::ssize(near_);
  growing_ = growing_bytes(state, causal_ ? tried : tokens_);
  working_ = working(grows_ ? growing_ * static_cast<double>(tried) : 0);
  const Index behind = longest - tokens_;
  if (grows_ && behind > tried && of(longest).bytes <= limits.bytes) {
    layers::ModelState far = grown_to(state, behind - tokens_);
    trial.run(tokens_, far);  // makes room for what comes
    far_ = trial.run(tokens_, far);
  }
}

double NeedsModel::flops_of(const std::string& op, double segment) const {
  const auto in = [&](std::size_t i) {
    const auto at = near_[i].find(op);
    return at == near_[i].end() ? 0 : at->second.flops;
  };
  const std::size_t last = near_.size() - 1;
  const auto i = static_cast<std::size_t>(segment);
  if (i <= last) {
    return in(i);
  }
  const double more = grows_ ? in(last)-in(last - 1) : 0;
  return in(last) + (segment - static_cast<double>(last)) * more;
}

double NeedsModel::flops(Index length) const {
  const auto tokens = static_cast<double>(tokens_);
  const double n = static_cast<double>(length) / tokens, whole = std::floor(n);
  const auto tried = static_cast<double>(near_.size());
  double sum = 0;
  for (const auto& [op, work] : near_.back()) {
    for (double i = 0; i < std::min(whole, tried); ++i) {
      sum += flops_of(op, i);
    }
    const double behind = std::max(0.0, whole - tried);
    sum += behind * (flops_of(op, tried) + flops_of(op, tried + behind - 1)) / 2;
    sum += (n - whole) * flops_of(op, whole);
  }
  return sum;
}

Needs NeedsModel::of(Index length) const {
  const auto tokens = static_cast<double>(length), each = static_cast<double>(tokens_);
  const double n = tokens / each;
  // What is not causal runs in one piece, with everything that it makes there at once.
  const double at_once = causal_ ? static_cast<double>(std::min(length, segment_)) : tokens;
  Needs out{.bytes = held_ + working_ * at_once / each + tokens * growing_ * kRoom +
                     tokens * static_cast<double>(rows_) * kBytesPerToken};
  // Time over the segments, at so many places between the first and the last.
  const double places = std::min(std::ceil(n), kPlaces), step = n / places;
  const auto tried = static_cast<double>(near_.size());
  for (double p = 0; p < places; ++p) {
    const double segment = places < kPlaces ? p : (p + 0.5) * step;
    const double weight = places < kPlaces ? std::min(1.0, n - p) : step;
    const double far =
        far_.empty()
            ? 0
            : std::clamp((segment - tried) / (static_cast<double>(longest_) / each - tried), 0.0,
                         1.0);
    for (const auto& [op, near] : near_.back()) {
      const auto at = far_.find(op);
      const Work there = at == far_.end() ? near : at->second;
      const auto rate = [&](const Work& w) {
        return w.flops > 0 ? w.seconds / w.flops : w.seconds;
      };
      const double work = op.empty() ? 1 : flops_of(op, segment);
      out.seconds += weight * work * (rate(near) + far * (rate(there) - rate(near)));
    }
  }
  return out;
}

namespace {

/// What an evaluation may take.
Needs limits_of(const layers::Model& model, const EvalConfig& eval) {
  Device& device = model.parameters().device();
  const Index machine = &device == &cpu() ? machine_memory() : device.properties().memory;
  return {static_cast<double>(eval.max_memory.value_or(machine)),
          eval.max_seconds.value_or(std::numeric_limits<double>::infinity())};
}

bool is_limited(layers::Model& model, Index longest, const EvalConfig& eval) {
  return eval.max_memory || eval.max_seconds ||
         (longest > kTrialSegments * eval.segment && has_growing_states(model));
}

std::string above(const Needs& needs, const Needs& limits, const EvalConfig& eval) {
  if (needs.bytes > limits.bytes) {
    return fmt::format("needs {} of memory, {} is {}", human_bytes(needs.bytes),
                       eval.max_memory ? "eval.max_memory" : "the device's",
                       human_bytes(limits.bytes));
  }
  if (needs.seconds > limits.seconds) {
    return fmt::format("needs {}, eval.max_seconds is {}", human_seconds(needs.seconds),
                       human_seconds(limits.seconds));
  }
  return "";
}

}  // namespace

std::string above_limits(layers::Model& model, const std::vector<Index>& lengths, Index rows,
                         const RunConfig& config, Communicator& comm) {
  const EvalConfig& eval = config.eval;
  const Index longest = std::ranges::max(lengths);
  if (rows == 0 || !is_limited(model, longest, eval)) {
    return "";
  }
  const Needs limits = limits_of(model, eval);
  const NeedsModel needs(model, config.scan, std::min(eval.segment, longest), rows, longest, limits,
                         comm);
  Needs all;
  for (const Index length : lengths) {
    const Needs one = needs.of(length);
    all.bytes = std::max(all.bytes, one.bytes);
    all.seconds += one.seconds;
  }
  all.bytes = comm.reduce_value(all.bytes, ReduceOp::kMax);
  all.seconds = comm.reduce_value(all.seconds, ReduceOp::kMax);
  return above(all, limits, eval);
}

std::vector<SlicePlan> plan_slices(layers::Model& model, const std::vector<data::Slice>& slices,
                                   const RunConfig& config, const parallel::Mesh& mesh) {
  Communicator& comm = mesh.world();
  const EvalConfig& eval = config.eval;
  std::vector<SlicePlan> plans;
  for (const data::Slice& slice : slices) {
    const Index length = longest_of(slice);
    SlicePlan& plan = plans.emplace_back(SlicePlan{slice.examples, ""});
    if (!eval.max_tokens) {
      continue;
    }
    if (length > *eval.max_tokens) {
      plan.not_run =
          fmt::format("needs {} tokens, eval.max_tokens is {}", length, *eval.max_tokens);
    } else {
      plan.examples = std::min(plan.examples, *eval.max_tokens / length);
    }
  }
  Index longest = 0;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    longest = plans[i].not_run.empty() ? std::max(longest, longest_of(slices[i])) : longest;
  }
  if (longest == 0 || !is_limited(model, longest, eval)) {
    return plans;
  }
  const Index segment = std::min(eval.segment, longest);
  const Needs limits = limits_of(model, eval);
  std::map<Index, NeedsModel> by_rows;  // a trial for each number of rows
  for (std::size_t i = 0; i < slices.size(); ++i) {
    if (!plans[i].not_run.empty()) {
      continue;
    }
    const Index global = std::min(eval.batch, plans[i].examples);
    const Index rows = (global + mesh.data().size() - 1) / mesh.data().size();
    auto at = by_rows.find(rows);
    if (at == by_rows.end()) {
      at = by_rows
               .emplace(rows, NeedsModel(model, config.scan, segment, rows, longest, limits, comm))
               .first;
    }
    Needs needs = at->second.of(longest_of(slices[i]));
    needs.seconds *= static_cast<double>((plans[i].examples + global - 1) / global);
    comm.all_reduce(&needs.bytes, 1, DType::kF64, ReduceOp::kMax);
    comm.all_reduce(&needs.seconds, 1, DType::kF64, ReduceOp::kMax);
    plans[i].not_run = above(needs, limits, eval);
  }
  return plans;
}

}  // namespace ls::experiments
