// Decayed linear attention on the GPU.
#include "core/backend/cuda/device/machine.cuh"
#include "core/op/op.h"
#include "core/ops/decayed_linear/decayed_linear_blocks.h"

namespace ls::ops {
namespace {

template <class T>
using Portable = decayed_linear::Blocks<cuda::Machine, T>;

LS_KERNEL(DecayedLinear)
    .on(DeviceType::kCuda)
    .named("portable")
    .reads("q k v gk gv o", lies::heads)
    .reads("g", lies::anyhow)
    .strided_grad("q k v")
    .kernel<Portable, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
