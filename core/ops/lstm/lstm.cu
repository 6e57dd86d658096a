// LSTM on the GPU.
#include "core/backend/cuda/device/machine.cuh"
#include "core/op/op.h"
#include "core/ops/lstm/lstm_blocks.h"

namespace ls::ops {
namespace {

template <class T>
using Portable = lstm::Blocks<cuda::Machine, T>;

LS_KERNEL(Lstm)
    .on(DeviceType::kCuda)
    .named("portable")
    .reads("gx y", lies::rows)
    .kernel<Portable, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
