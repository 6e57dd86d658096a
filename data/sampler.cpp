#include "data/sampler.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "core/base/error.h"

namespace ls::data {

Sampler::Sampler(const Task& task, Split split, Index batch, std::uint64_t seed)
    : task_(task),
      split_(split),
      order_(split == Split::kTrain ? task.info().order : Order::kEpochs),
      batch_(batch),
      seed_(seed) {
  const std::vector<Slice>& slices = task.slices(split);
  LS_CHECK(batch >= 1, kConfig, "the batch must hold at least one example, got {}", batch);
  LS_CHECK(!slices.empty(), kConfig, "the task has no {} examples", enum_name(split));
  const bool finite = order_ == Order::kEpochs || order_ == Order::kShuffled;
  double weight = 0;
  for (const Slice& s : slices) {
    weight_until_.push_back(weight += s.weight);
    first_batch_.push_back(batches_);
    if (finite) {
      LS_CHECK(s.examples > 0, kConfig,
               "setting '{}' needs a number of examples: its set is finite", s.name);
      batches_ += batches_of(s);
    }
  }
  LS_CHECK(finite || weight > 0, kConfig, "the weights of the training settings add up to {}",
           weight);
}

Index Sampler::batches_of(const Slice& slice) const {
  const Index rows = std::min(batch_, slice.examples);
  return (slice.examples + rows - 1) / rows;
}

/// Length of batch `step` by a schedule, and the tokens of a row before it.
static std::pair<Index, Index> grown(const std::vector<LengthFrom>& grows, Index step) {
  Index before = 0;
  for (std::size_t i = 0;; ++i) {
    const bool last = i + 1 == grows.size() || step < grows[i + 1].step;
    const Index until = last ? step : grows[i + 1].step;
    before += (until - grows[i].step) * grows[i].length;
    if (last) {
      return {grows[i].length, before};
    }
  }
}

BatchPlan Sampler::plan(Index step) const {
  LS_CHECK(step >= 0 && (split_ == Split::kTrain || step < batches_), kInternal,
           "no {} batch {}, there are {}", enum_name(split_), step, batches_);
  const std::vector<Slice>& slices = task_.slices(split_);
  Rng rng(seed_, "data/batch", static_cast<std::uint64_t>(step));
  BatchPlan plan;
  Index first = step * batch_;
  Index rows = batch_;
  if (batches_ == 0) {
    const double at = rng.uniform(0, weight_until_.back());
    plan.slice =
        std::upper_bound(weight_until_.begin(), weight_until_.end(), at) - weight_until_.begin();
  } else {
    const auto epoch = static_cast<std::uint64_t>(step / batches_);
    Index place = step % batches_;
    if (order_ == Order::kShuffled) {
      place = Permutation(batches_, seed_, stream_id("data/batches"), epoch)(place);
    }
    plan.slice = std::upper_bound(first_batch_.begin(), first_batch_.end(), place) -
                 first_batch_.begin() - 1;
    const auto s = static_cast<std::size_t>(plan.slice);
    first = (place - first_batch_[s]) * batch_;
    rows = std::min(batch_, slices[s].examples - first);
  }
  const Slice& slice = slices[static_cast<std::size_t>(plan.slice)];
  if (slice.carried) {
    const Index place = step - first_batch_[static_cast<std::size_t>(plan.slice)];
    const Index n = slice.examples, all = std::min(batch_, n);
    plan.length = slice.length;
    plan.continues = place > 0;
    for (Index r = 0; r < all; ++r) {
      const Index at = n * r / all + place;
      plan.index.push_back(at < n * (r + 1) / all ? at : -1);
    }
    return plan;
  }
  plan.index.resize(static_cast<std::size_t>(rows));
  std::iota(plan.index.begin(), plan.index.end(), first);
  if (order_ == Order::kShuffled) {
    const auto epoch = static_cast<std::uint64_t>(step / batches_);
    const Permutation shuffled(slice.examples, seed_, stream_id("data/examples/" + slice.name),
                               epoch);
    for (Index& i : plan.index) {
      i = shuffled(i);
    }
  }
  plan.length = slice.length;
  plan.before = step * slice.length;
  if (!slice.grows.empty()) {
    std::tie(plan.length, plan.before) = grown(slice.grows, step);
  } else if (slice.max_length > slice.length) {
    plan.length += rng.below(slice.max_length - slice.length + 1);
  }
  plan.continues = order_ == Order::kStream && step > 0;
  return plan;
}

}  // namespace ls::data
