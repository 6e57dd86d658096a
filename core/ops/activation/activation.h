#pragma once
#include "core/op/op.h"
#include "core/ops/common/act.h"

namespace ls::ops {

/// y = act(x), elementwise.
/// @shape  x [...] -> y [...]
/// @dtype  any float; evaluated in acc
/// @grad   exact; at the kink of relu and relu2 it is 0
struct Activation {
  template <class T>
  struct In {
    T x;
  };
  template <class T>
  struct Out {
    T y;
  };
  struct Attrs {
    Act activation = Act::kIdentity;
  };
};

}  // namespace ls::ops
