#pragma once
// Lengths of training batches: one, or a range of which every batch draws its own.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <optional>
#include <vector>

#include "core/config/fields.h"
#include "data/task.h"

namespace ls::data {

/// How lengths grow from `length` to `max_length` while a model is trained.
enum class Growth : std::uint8_t {
  kDoubling,  ///< twice as long from each of the given updates on
  kLinear,    ///< by equal steps
};

}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::Growth> {
  static constexpr std::string_view kKind = "growth";
  static constexpr std::array<std::string_view, 2> kNames = {"doubling", "linear"};
};

namespace ls::data {

struct LengthGrowth {
  Growth by = Growth::kDoubling;
  std::vector<Index> at;
  Index step = 1;

  template <class F>
  void fields(F& f) {
    f("by", by, {.help = "doubling, at each update of `at`, or linear, in equal steps"});
    f("at", at,
      {.help = "finished updates at which rows become longer, ascending; linear: the one at which "
               "they have max_length",
       .min = 1,
       .min_size = 1});
    f("step", step, {.help = "linear: lengths grow by multiples of so many tokens", .min = 1});
    f.check(std::ranges::adjacent_find(at, std::greater_equal()) == at.end(), "at",
            "must be ascending");
    f.check(by == Growth::kDoubling || at.size() == 1, "at",
            "of linear growth is the one update at which rows have max_length");
  }
};

/// Part of a task's Config; its `fields` calls that of the plan, which adds `length` and
/// `max_length`. Mixtures of lengths with difficulties of their own are several slices.
struct LengthPlan {
  Index length = 1;
  std::optional<Index> max_length;
  std::optional<LengthGrowth> grow;

  template <class F>
  void fields(F& f) {
    f("length", length, {.help = "tokens per training example", .min = 1});
    f("max_length", max_length,
      {.help = "each training batch draws its length uniformly from length .. max_length",
       .min = 1});
    f.check(!max_length || *max_length >= length, "max_length", "must be at least length");
    f("grow", grow,
      {.help = "training batches have length at first and max_length in the end, e.g. {by: "
               "doubling, at: [500, 1000]}; null: lengths are drawn"});
    const std::string fault = growth_fault();
    f.check(fault.empty(), "grow", fault);
  }
  Index longest() const { return std::max(length, max_length.value_or(length)); }
  /// "T20" or "T8-24".
  Slice slice() const {
    return {.name = longest() > length ? fmt::format("T{}-{}", length, longest())
                                       : fmt::format("T{}", length),
            .length = length,
            .max_length = longest(),
            .grows = grows()};
  }

 private:
  std::string growth_fault() const {
    if (!grow) {
      return "";
    }
    if (longest() == length) {
      return "needs a max_length above length to grow to";
    }
    if (grow->by == Growth::kLinear) {
      return (longest() - length) % grow->step == 0
                 ? ""
                 : fmt::format("{} to {} tokens are no whole number of steps of {}", length,
                               longest(), grow->step);
    }
    const auto times = static_cast<double>(grow->at.size());
    const double last = static_cast<double>(length) * std::exp2(times);
    return last == static_cast<double>(longest())
               ? ""
               : fmt::format("{} tokens become {} in the end, max_length is {}", length, last,
                             longest());
  }
  std::vector<LengthFrom> grows() const {
    if (!grow || !growth_fault().empty() || grow->at.empty()) {
      return {};
    }
    std::vector<LengthFrom> out = {{0, length}};
    if (grow->by == Growth::kDoubling) {
      for (const Index at : grow->at) {
        out.push_back({at, 2 * out.back().length});
      }
      return out;
    }
    const Index steps = (longest() - length) / grow->step, end = grow->at.front();
    for (Index i = 1; i <= steps; ++i) {
      const LengthFrom next{(end * i + steps - 1) / steps, length + i * grow->step};
      if (next.step == out.back().step) {
        out.back() = next;
      } else {
        out.push_back(next);
      }
    }
    return out;
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
