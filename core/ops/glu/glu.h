#pragma once
#include "core/op/gives_y.h"
#include "core/ops/common/act.h"

namespace ls::ops {

/// Gated linear unit: y = act(gate) * up. Gate and up come as the halves of one tensor (one
/// projection, no copy) or as two.
/// @shape  x [...,2F] (gate first), or gate [...,F] and up [...,F] -> y [...,F]
/// @dtype  any float; evaluated in acc
/// @source Shazeer 2002.05202
struct Glu : GivesY {
  template <class T>
  struct In {
    T x, gate, up;
  };
  struct Attrs {
    Act activation = Act::kSilu;
    void fields(auto&& f) const { f("activation", activation, "function of the gate"); }
  };
};

}  // namespace ls::ops
