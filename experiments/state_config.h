#pragma once
// `state:` of a run: what the states of training rows are at the start of a batch.
#include <fmt/format.h>

#include <optional>
#include <string>
#include <string_view>

#include "core/config/fields.h"

namespace ls::experiments {

/// `state: tbptt` gives one mode to all rows, a map shares them out: {zero: 0.5, tbptt: 0.5}. Which
/// row has which follows from seed, update and its number in the batch.
struct StateConfig {
  std::optional<double> zero;
  double tbptt = 0;

  /// Rows of a step go on where those of the step before ended.
  bool streams() const { return tbptt > 0; }

  /// The section that a mode's name stands for; what is wrong with another word, else "".
  std::string set_word(std::string_view word) {
    *this = {};
    if (word == "tbptt") {
      tbptt = 1;
    } else if (word == "reset") {
      return "'reset' is called zero: write state: zero";
    } else if (word == "carry") {
      return "'carry' is tbptt of one segment: write state: tbptt";
    } else if (word != "zero") {
      return fmt::format("a mode, zero or tbptt, or a map of probabilities is expected, got '{}'",
                         word);
    }
    return "";
  }

  template <class F>
  void fields(F& f) {
    constexpr double kMost = 1;
    f("zero", zero,
      {.help = "probability that a row starts from zero states; null: what the others leave of 1",
       .min = 0,
       .max = kMost});
    f("tbptt", tbptt,
      {.help = "that it goes on where the row of its number ended in the update before, on "
               "contiguous text; gradients stop there",
       .min = 0,
       .max = kMost});
  }
  /// What is wrong with the probabilities, or "".
  std::string fault() const {
    if (tbptt != 0 && tbptt != 1) {
      return fmt::format("tbptt is {}, 0 or 1 is expected", tbptt);
    }
    return zero && *zero + tbptt != 1
               ? fmt::format("the probabilities add up to {}, 1 is expected", *zero + tbptt)
               : "";
  }
};

}  // namespace ls::experiments
