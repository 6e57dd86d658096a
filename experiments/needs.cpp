#include "experiments/needs.h"

#include <algorithm>
#include <chrono>

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

Index longest_of(const data::Slice& slice) {
  return std::max(slice.length, slice.max_length);
}

double bytes_held(Device& device) {
  if (&device == &cpu()) {
    return static_cast<double>(peak_resident_bytes());
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

NeedsModel::NeedsModel(layers::Model& model, const ScanConfig& scan, Index segment, Index rows)
    : segment_(segment), rows_(rows), causal_(model.causal()) {
  using Clock = std::chrono::steady_clock;
  Device& device = model.parameters().device();
  const data::Batch batch = zeros(model, rows, segment);
  layers::ModelState state;
  std::map<std::string, double> before;
  double first = 0, last = 0;
  for (Index i = 0; i < kTrialSegments; ++i) {
    if (!causal_) {
      state = {};
    }
    const auto begin = Clock::now();
    profile::start();
    pass(model, batch, scan, state, {.keep = true});
    const std::vector<profile::Entry> entries = profile::stop();
    const double wall = std::chrono::duration<double>(Clock::now() - begin).count();
    double flops = 0, in_ops = 0;
    std::map<std::string, double> now;
    for (const profile::Entry& e : entries) {
      now[e.name] += e.flops;
      flops += e.flops;
      in_ops += e.flops > 0 ? e.seconds : 0;
    }
    if (i + 1 == kTrialSegments) {
      // Elsewhere the host's clock says when work was put there; what all of it took is known.
      const bool host = &device == &cpu();
      for (const profile::Entry& e : entries) {
        if (e.flops > 0) {
          const double rate = host ? e.seconds / e.flops : wall / flops;
          ops_[e.name] = {e.flops, e.flops - before[e.name], rate};
        }
      }
      other_seconds_ = host ? wall - in_ops : 0;
      last = flops;
    } else if (i == 0) {
      first = flops;
    }
    before = std::move(now);
  }
  grows_ = causal_ &&
           std::ranges::any_of(state.slots, [](const auto& slot) { return slot.second.grows; });
  double more = 0;
  for (auto& [name, work] : ops_) {
    work.more = grows_ ? work.more : 0;
    more += work.more;
  }
  first_flops_ = last - (kTrialSegments - 1) * more - first;
  growing_ = growing_bytes(state, (causal_ ? kTrialSegments : 1) * segment);
  trial_bytes_ = bytes_held(device);
}

double NeedsModel::flops(Index length) const {
  const double n = static_cast<double>(length) / static_cast<double>(segment_);
  double sum = -first_flops_;
  for (const auto& [name, work] : ops_) {
    const double third = work.flops - (kTrialSegments - 1) * work.more;  // of a first one like it
    sum += n * third + n * (n - 1) / 2 * work.more;
  }
  return sum;
}

Needs NeedsModel::of(Index length) const {
  const double n = static_cast<double>(length) / static_cast<double>(segment_);
  // What is not causal runs in one piece, with everything that it makes there at once.
  Needs out{.bytes = trial_bytes_ * (causal_ ? 1 : std::max(1.0, n)),
            .seconds = n * other_seconds_};
  for (const auto& [name, work] : ops_) {
    const double start = work.flops - (kTrialSegments - 1) * work.more;
    out.seconds += (n * start + n * (n - 1) / 2 * work.more) * work.seconds_per_flop;
  }
  const auto tokens = static_cast<double>(length);
  const double beyond = std::max(0.0, tokens - static_cast<double>(kTrialSegments * segment_));
  out.bytes += beyond * growing_ * kRoom + tokens * static_cast<double>(rows_) * kBytesPerToken;
  return out;
}

std::vector<SlicePlan> plan_slices(layers::Model& model, const std::vector<data::Slice>& slices,
                                   const RunConfig& config, const parallel::Mesh& mesh) {
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
  const Index segment = std::min(eval.segment, longest);
  const bool grows = longest > kTrialSegments * eval.segment && has_growing_states(model);
  if (longest == 0 || (!grows && !eval.max_memory && !eval.max_seconds)) {
    return plans;
  }
  Device& device = model.parameters().device();
  const Index machine = &device == &cpu() ? machine_memory() : device.properties().memory;
  const auto most = static_cast<double>(eval.max_memory.value_or(machine));
  std::map<Index, NeedsModel> by_rows;  // a trial for each number of rows
  for (std::size_t i = 0; i < slices.size(); ++i) {
    if (!plans[i].not_run.empty()) {
      continue;
    }
    const Index global = std::min(eval.batch, plans[i].examples);
    const Index rows = (global + mesh.data().size() - 1) / mesh.data().size();
    auto at = by_rows.find(rows);
    if (at == by_rows.end()) {
      at = by_rows.emplace(rows, NeedsModel(model, config.scan, segment, rows)).first;
    }
    Needs needs = at->second.of(longest_of(slices[i]));
    needs.seconds *= static_cast<double>((plans[i].examples + global - 1) / global);
    mesh.world().all_reduce(&needs.bytes, 1, DType::kF64, ReduceOp::kMax);
    mesh.world().all_reduce(&needs.seconds, 1, DType::kF64, ReduceOp::kMax);
    if (needs.bytes > most) {
      plans[i].not_run =
          fmt::format("needs {} of memory, {} is {}", human_bytes(needs.bytes),
                      eval.max_memory ? "eval.max_memory" : "the device's", human_bytes(most));
    } else if (eval.max_seconds && needs.seconds > *eval.max_seconds) {
      plans[i].not_run =
          fmt::format("needs {}, eval.max_seconds is {}", human_seconds(needs.seconds),
                      human_seconds(*eval.max_seconds));
    }
  }
  return plans;
}

}  // namespace ls::experiments
