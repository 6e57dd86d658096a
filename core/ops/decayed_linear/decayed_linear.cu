// Decayed linear attention on the GPU.
#include "core/backend/cuda/device/machine.cuh"
#include "core/op/op.h"
#include "core/ops/decayed_linear/decayed_linear_blocks.h"
#include "core/ops/decayed_linear/decayed_linear_hopper_op.cuh"

namespace ls::ops {
namespace {

template <class T>
using Portable = decayed_linear::Blocks<cuda::Machine, T>;
template <class T>
using Scalar = decayed_linear::hopper::Scalar;
template <class T>
using Channels = decayed_linear::hopper::Channels;

LS_KERNEL(DecayedLinear)
    .on(DeviceType::kCuda)
    .named("scalar sm_90a")
    .aligned("q k v o", 16)
    .absent("gk gv u")
    .when(&decayed_linear::hopper::fits)
    .kernel<Scalar, bf16>();
LS_KERNEL(DecayedLinear)
    .on(DeviceType::kCuda)
    .named("channels sm_90a")
    .aligned("q k v o", 16)
    .given("gk")
    .absent("g decay gv")
    .when(&decayed_linear::hopper::fits_channels)
    .kernel<Channels, bf16>();
LS_KERNEL(DecayedLinear)
    .on(DeviceType::kCuda)
    .named("portable")
    .reads("q k v gk gv o", lies::heads)
    .reads("g", lies::anyhow)
    .strided_grad("q k v")
    .kernel<Portable, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
