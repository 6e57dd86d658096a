// LSTM on the GPU.
#include "core/op/op.h"
#include "core/ops/common/cell_on_gpu.cuh"
#include "core/ops/lstm/lstm_blocks.h"
#include "core/ops/lstm/lstm_grid.cuh"

namespace ls::ops {
namespace {

template <class T>
using OnGpu = common::CellOnGpu<T, lstm::Passes<T>, lstm::grid::GridCall<T>>;
template <class T>
using Kernel = lstm::Blocks<cuda::Machine, T, OnGpu<T>>;

LS_KERNEL(Lstm)
    .on(DeviceType::kCuda)
    .named("portable")
    .reads("gx y", lies::rows)
    .aligned("h0", 16)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
