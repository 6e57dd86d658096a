// Softmax attention on the GPU.
#include "core/backend/cuda/device/machine.cuh"
#include "core/op/op.h"
#include "core/ops/attention/attention_blocks.h"

namespace ls::ops {
namespace {

template <class T>
using Portable = attention::Blocks<cuda::Machine, T>;

LS_KERNEL(Attention)
    .on(DeviceType::kCuda)
    .named("portable")
    .reads("q k v k0 v0 o kT vT", lies::heads)
    .strided_grad("q k v")
    .kernel<Portable, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
