// The matrix LSTM on the GPU.
#include "core/backend/cuda/device/machine.cuh"
#include "core/op/op.h"
#include "core/ops/mlstm/mlstm_blocks.h"
#include "core/ops/mlstm/mlstm_scans_op.cuh"

namespace ls::ops {
namespace {

template <class T>
using Portable = mlstm::Blocks<cuda::Machine, T>;
template <class T>
using Scans = mlstm::scans::Scans;

LS_KERNEL(Mlstm)
    .on(DeviceType::kCuda)
    .named("scans of sm_90a")
    .aligned("q k v o", 16)
    .when(&mlstm::scans::Scans::fits)
    .keeps(&mlstm::scans::Scans::keeps)
    .kernel<Scans, bf16>();

LS_KERNEL(Mlstm)
    .on(DeviceType::kCuda)
    .named("portable")
    .reads("q k v o", lies::heads)
    .reads("i f", lies::anyhow)
    .strided_grad("q k v")
    .kernel<Portable, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
