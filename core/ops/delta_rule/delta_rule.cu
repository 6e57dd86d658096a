// The delta rule on the GPU.
#include "core/backend/cuda/device/machine.cuh"
#include "core/op/op.h"
#include "core/ops/delta_rule/delta_rule_blocks.h"

namespace ls::ops {
namespace {

template <class T>
using Portable = delta_rule::Blocks<cuda::Machine, T>;

LS_KERNEL(DeltaRule)
    .on(DeviceType::kCuda)
    .named("portable")
    .reads("q k v a b gk o", lies::heads)
    .reads("g beta", lies::anyhow)
    .strided_grad("q k v a b")
    .kernel<Portable, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
