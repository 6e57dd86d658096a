// The loops of common/mean_norm.h with num_groups groups a row; layer_norm/NOTES.md has the
// gradient.
#include "core/ops/group_norm/group_norm.h"

#include "core/op/declare.h"
#include "core/ops/common/mean_norm.h"

namespace ls::ops {

LS_KERNEL(GroupNorm).reads("x z y", lies::rows).types<double, float, bf16>([]<class T>() {
  return std::pair(&mean_norm_forward<T, GroupNorm>, &mean_norm_backward<T, GroupNorm>);
});

}  // namespace ls::ops
