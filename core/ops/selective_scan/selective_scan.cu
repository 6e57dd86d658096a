// The selective scan on the GPU.
#include "core/backend/cuda/device/machine.cuh"
#include "core/op/op.h"
#include "core/ops/selective_scan/selective_scan_blocks.h"

namespace ls::ops {
namespace {

template <class T>
using Portable = selective_scan::Blocks<cuda::Machine, T>;

LS_KERNEL(SelectiveScan)
    .on(DeviceType::kCuda)
    .named("portable")
    .kernel<Portable, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
