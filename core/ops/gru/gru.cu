// GRU on the GPU.
#include "core/op/op.h"
#include "core/ops/common/cell_on_gpu.cuh"
#include "core/ops/gru/gru_blocks.h"
#include "core/ops/gru/gru_grid.cuh"

namespace ls::ops {
namespace {

template <class T>
using OnGpu = common::CellOnGpu<T, gru::Passes<T>, gru::grid::GridCall<T>>;
template <class T>
using Kernel = gru::Blocks<cuda::Machine, T, OnGpu<T>>;

LS_KERNEL(Gru)
    .on(DeviceType::kCuda)
    .named("portable")
    .reads("gx y", lies::rows)
    .aligned("h0", 16)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
