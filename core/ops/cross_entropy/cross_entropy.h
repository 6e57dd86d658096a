#pragma once
#include "core/base/types.h"

namespace ls::ops {

/// Cross-entropy of logits against class indices. With u = logit_scale * logits, x = u or, for a
/// softcap c > 0, c tanh(u / c), and a = label_smoothing, a token costs
///   weight * (lse - (1 - a) x[target] - a mean(x) + z_loss lse^2),  lse = log sum exp(x)
/// and nothing where its target is ignore_index. The mean divides by the number of tokens that
/// count (by the sum of their weights where weights are given); it is 0 when none does.
/// @shape  logits [...,V], targets [...], weights [...] or absent (1) -> loss [] (mean, sum) or
///         losses [...] (none), lse [...]
/// @dtype  logits any float; weights and outputs acc; computed in acc
/// @grad   exact in the logits, through lse too; weights have none
/// @throws Error(Shape) on a target outside 0 .. V-1 that is not ignore_index
struct CrossEntropy {
  enum class Reduction : std::uint8_t { kMean, kSum, kNone };
  template <class T>
  struct In {
    T logits, targets, weights;
  };
  template <class T>
  struct Out {
    T loss, losses, lse;
  };
  struct Attrs {
    Reduction reduction = Reduction::kMean;
    Index ignore_index = -100;
    double label_smoothing = 0;
    double z_loss = 0;
    double softcap = 0;
    double logit_scale = 1;
    void fields(auto&& f) const {
      f("reduction", reduction, "what becomes of the losses of tokens");
      f("ignore_index", ignore_index, "target that does not count");
      f("label_smoothing", label_smoothing, "share of the target that goes to all classes");
      f("z_loss", z_loss, "factor on lse^2");
      f("softcap", softcap, "c tanh(u / c) of logits; 0: none");
      f("logit_scale", logit_scale, "factor on logits");
    }
  };
};

}  // namespace ls::ops

template <>
struct ls::EnumNames<ls::ops::CrossEntropy::Reduction> {
  static constexpr std::string_view kKind = "reduction";
  static constexpr std::array<std::string_view, 3> kNames = {"mean", "sum", "none"};
};
