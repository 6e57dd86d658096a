#pragma once
#include "core/op/gives_y.h"
#include "core/ops/common/act.h"

namespace ls::ops {

/// Gated linear unit and the projection behind it, y = (act(gate) * up) W^T: the hidden channels
/// are formed again in the backward pass, not kept, and where W is small exist for a block of rows
/// at a time.
/// @shape  x [...,2F] (gate first), weight [D,F] -> y [...,D]
/// @dtype  x, weight, y any one float; hidden channels in it too; sums in acc
/// @grad   exact; the weight's is summed over rows and returned in acc
/// @cost   2 * rows * F * D flop, and what glu costs
/// @source Shazeer 2002.05202
struct GluLinear : GivesY {
  template <class T>
  struct In {
    T x, weight;
  };
  struct Attrs {
    Act activation = Act::kSilu;
    void fields(auto&& f) const { f("activation", activation, "function of the gate"); }
  };
};

}  // namespace ls::ops
