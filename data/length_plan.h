#pragma once
// Lengths of training batches: one, or a range of which every batch draws its own.
#include <algorithm>
#include <optional>
#include <vector>

#include "core/config/fields.h"
#include "data/task.h"

namespace ls::data {

/// Part of a task's Config; its `fields` calls that of the plan, which adds `length` and
/// `max_length`. Mixtures of lengths with difficulties of their own are several slices.
struct LengthPlan {
  Index length = 1;
  std::optional<Index> max_length;

  template <class F>
  void fields(F& f) {
    f("length", length, {.help = "tokens per training example", .min = 1});
    f("max_length", max_length,
      {.help = "each training batch draws its length uniformly from length .. max_length",
       .min = 1});
    f.check(!max_length || *max_length >= length, "max_length", "must be at least length");
  }
  Index longest() const { return std::max(length, max_length.value_or(length)); }
  /// "T20" or "T8-24".
  Slice slice() const {
    return {.name = longest() > length ? fmt::format("T{}-{}", length, longest())
                                       : fmt::format("T{}", length),
            .length = length,
            .max_length = longest()};
  }
};

/// `examples` examples of one length.
inline Slice fixed_length_slice(Index length, Index examples) {
  return {.name = fmt::format("T{}", length), .length = length, .examples = examples};
}

/// Part of a Config: lengths to train on and lengths to test, one setting each.
struct LengthGrid : LengthPlan {
  std::vector<Index> test_lengths;
  Index test_examples = 500;

  template <class F>
  void fields(F& f) {
    LengthPlan::fields(f);
    f("test_lengths", test_lengths,
      {.help = "tokens per example in validation and test, one setting each; empty: the longest of "
               "training",
       .min = 1});
    f("test_examples", test_examples, {.help = "examples for each test setting", .min = 1});
  }
  std::vector<Index> tested() const {
    return test_lengths.empty() ? std::vector<Index>{longest()} : test_lengths;
  }
  std::vector<Slice> test_slices() const {
    std::vector<Slice> slices;
    for (const Index length : tested()) {
      slices.push_back(fixed_length_slice(length, test_examples));
    }
    return slices;
  }
  /// The first length, of training or tests, that `bad` holds for.
  template <class Bad>
  std::optional<Index> first_length(const Bad& bad) const {
    for (const Index t : tested()) {
      if (bad(t)) {
        return t;
      }
    }
    return bad(length) ? std::optional<Index>(length) : std::nullopt;
  }
};

}  // namespace ls::data
