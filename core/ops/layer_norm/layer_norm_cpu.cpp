// The loops of common/mean_norm.h with one group a row; NOTES.md has the gradient.
#include "core/ops/layer_norm/layer_norm.h"

#include "core/op/declare.h"
#include "core/ops/common/mean_norm.h"

namespace ls::ops {

LS_KERNEL(LayerNorm).reads("x z y", lies::rows).types<double, float, bf16>([]<class T>() {
  return std::pair(&mean_norm_forward<T, LayerNorm>, &mean_norm_backward<T, LayerNorm>);
});

}  // namespace ls::ops
