// The matrix LSTM on the GPU.
#include "core/backend/cuda/device/machine.cuh"
#include "core/op/op.h"
#include "core/ops/mlstm/mlstm_blocks.h"

namespace ls::ops {
namespace {

template <class T>
using Portable = mlstm::Blocks<cuda::Machine, T>;

LS_KERNEL(Mlstm)
    .on(DeviceType::kCuda)
    .named("portable")
    .reads("q k v o", lies::heads)
    .reads("i f", lies::anyhow)
    .strided_grad("q k v")
    .kernel<Portable, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
