#include "core/ops/layer_norm/layer_norm.h"

#include "core/ops/common/mean_norm.cuh"

namespace ls::ops {
namespace {

template <class T>
using Kernel = MeanNormKernel<LayerNorm, T>;

LS_KERNEL(LayerNorm)
    .on(DeviceType::kCuda)
    .reads("x z y", lies::rows)
    .strided_grad("x z")
    .adds_grad("x")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
