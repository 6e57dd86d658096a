#pragma once
#include "core/op/gives_y.h"
#include "core/ops/common/act.h"

namespace ls::ops {

/// y = act(x + bias) in one pass.
/// @shape  x [...,D], bias [D] or absent -> y [...,D]
/// @dtype  x any float; bias acc; evaluated in acc
struct BiasAct : GivesY {
  template <class T>
  struct In {
    T x, bias;
  };
  struct Attrs {
    Act activation = Act::kGeluTanh;
    void fields(auto&& f) const { f("activation", activation, "the function"); }
  };
};

}  // namespace ls::ops
