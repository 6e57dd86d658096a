#pragma once
#include "core/op/gives_y.h"
#include "core/ops/common/act.h"

namespace ls::ops {

/// y = act(x), elementwise.
/// @shape  x [...] -> y [...]
/// @dtype  any float; evaluated in acc
/// @grad   exact; at the kink of relu and relu2 it is 0
struct Activation : TakesXGivesY {
  struct Attrs {
    Act activation = Act::kIdentity;
    void fields(auto&& f) const { f("activation", activation, "the function"); }
  };
};

}  // namespace ls::ops
