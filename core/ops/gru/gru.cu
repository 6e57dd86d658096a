// GRU on the GPU.
#include "core/backend/cuda/device/machine.cuh"
#include "core/op/op.h"
#include "core/ops/gru/gru_blocks.h"

namespace ls::ops {
namespace {

template <class T>
using Portable = gru::Blocks<cuda::Machine, T>;

LS_KERNEL(Gru)
    .on(DeviceType::kCuda)
    .named("portable")
    .reads("gx y", lies::rows)
    .kernel<Portable, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
