#pragma once
// `state:` of a run: what the states of training rows are at the start of an update.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "core/config/fields.h"

namespace ls::experiments {

/// While alive, this thread reads a config that an earlier program may have written: what that
/// called reset and carry is zero and tbptt.
class ReadsStored {
 public:
  ReadsStored() : before_(std::exchange(on_, true)) {}
  ~ReadsStored() { on_ = before_; }
  ReadsStored(const ReadsStored&) = delete;
  ReadsStored& operator=(const ReadsStored&) = delete;
  static bool on() { return on_; }

 private:
  static inline thread_local bool on_ = false;
  bool before_;
};

/// `state: passed` gives one mode to all rows, a map shares them out: {zero: 0.5, passed: 0.5}.
/// Which row has which follows from seed, update and its number in the batch. experiments/STATES.md
/// says what each mode does.
struct StateConfig {
  std::optional<double> zero;
  double gaussian = 0, fitted = 0, passed = 0, tbptt = 0, learned = 0;
  double std = 1;
  Index fit_every = 100;
  Index segments = 1;
  std::optional<Index> back;

  double zero_share() const {
    return zero.value_or(std::max(0.0, 1 - (gaussian + fitted + passed + tbptt + learned)));
  }
  /// Rows of a step go on where those of the step before ended.
  bool streams() const { return tbptt > 0; }
  /// The last states of an update are needed by a later one.
  bool keeps() const { return fitted > 0 || passed > 0 || tbptt > 0; }
  bool noise() const { return gaussian > 0 || fitted > 0; }
  /// Rows are told one by one what they start from.
  bool by_row() const { return keeps() || noise() || (learned > 0 && zero_share() > 0); }
  /// Segments behind one another that gradients go through.
  Index reach() const { return back.value_or(segments); }

  /// The section that a mode's name stands for; what is wrong with another word, else "".
  std::string set_word(std::string_view word) {
    *this = {};
    if (word == "zero" || (word == "reset" && ReadsStored::on())) {
      return "";
    }
    if (word == "carry" && ReadsStored::on()) {
      word = "tbptt";
    }
    const std::array<std::pair<std::string_view, double*>, 4> modes = {
        {{"fitted", &fitted}, {"passed", &passed}, {"tbptt", &tbptt}, {"learned", &learned}}};
    for (const auto& [name, share] : modes) {
      if (word == name) {
        *share = 1;
        return "";
      }
    }
    if (word == "reset") {
      return "'reset' is called zero: write state: zero";
    }
    if (word == "carry") {
      return "'carry' is tbptt of one segment: write state: tbptt";
    }
    if (word == "gaussian") {
      return "gaussian needs its standard deviation: write state: {gaussian: 1, std: 0.1}";
    }
    return fmt::format(
        "one of zero, fitted, passed, tbptt, learned, or their probabilities as in "
        "{{zero: 0.5, passed: 0.5}}, is expected, got '{}'",
        word);
  }

  template <class F>
  void fields(F& f) {
    const auto share = [&](std::string_view name, auto& value, std::string_view help) {
      f(name, value, {.help = help, .min = 0, .max = 1});
    };
    share("zero", zero,
          "probability that a row starts from zeros; null: what the others leave of 1");
    share("gaussian", gaussian, "that it starts from normal numbers of mean 0 and `std`");
    share("fitted", fitted,
          "that it starts from normal numbers with mean and variance, by layer and head, of the "
          "last states of training rows");
    share("passed", passed,
          "that it starts from the last state of another row of the update before, of whatever "
          "text; keys and values of attention are not passed, positions begin at 0");
    share("tbptt", tbptt,
          "that it goes on where the row of its number ended in the update before, on text that "
          "goes on likewise; no gradient goes back there");
    share("learned", learned,
          "that it starts from states that are parameters, as all documents inside rows do then, "
          "in evaluation too");
    f("std", std, {.help = "of gaussian states", .above = 0, .required = gaussian > 0});
    f("fit_every", fit_every,
      {.help = "every so many updates fitted rows start from zeros, and their last states give "
               "mean and variance until the next time",
       .min = 2});
    f("segments", segments,
      {.help = "rows are computed in so many segments of equal length, one at a time: memory is "
               "that of one segment and a state for each, gradients are those of the whole row",
       .min = 1});
    f("back", back,
      {.help = "gradients stop at every so many-th border of segments; null: at none", .min = 1});
  }
  /// What is wrong with it, or "".
  std::string fault() const {
    const double sum = zero_share() + gaussian + fitted + passed + tbptt + learned;
    if (std::abs(sum - 1) > 1e-9) {
      return fmt::format("the probabilities add up to {}, 1 is expected", sum);
    }
    if (back && *back > segments) {
      return fmt::format("back is {}, there are {} segments", *back, segments);
    }
    return "";
  }
};

}  // namespace ls::experiments
