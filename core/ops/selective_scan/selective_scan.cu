// The selective scan on the GPU.
#include "core/backend/cuda/device/machine.cuh"
#include "core/op/op.h"
#include "core/ops/selective_scan/selective_scan_walk.cuh"

namespace ls::ops {
namespace {

template <class T>
using Portable = selective_scan::Blocks<cuda::Machine, T>;

bool fits(const SelectiveScan::In<ShapeOf>& in, const SelectiveScan::Attrs& attrs, int generation) {
  return selective_scan::walk::Registers<float>::fits(in, attrs, generation);
}

LS_KERNEL(SelectiveScan)
    .on(DeviceType::kCuda)
    .named("registers")
    .when(&fits)
    .kernel<selective_scan::walk::Registers, float, bf16>();
LS_KERNEL(SelectiveScan)
    .on(DeviceType::kCuda)
    .named("portable")
    .kernel<Portable, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
