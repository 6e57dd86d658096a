// The gated scan on the GPU.
#include "core/backend/cuda/device/machine.cuh"
#include "core/op/op.h"
#include "core/ops/gated_scan/gated_scan_blocks.h"
#include "core/ops/gated_scan/gated_scan_tiles.cuh"

namespace ls::ops {
namespace {

template <class T>
using Portable = gated_scan::Blocks<cuda::Machine, T>;

LS_KERNEL(GatedScan)
    .on(DeviceType::kCuda)
    .named("tiles")
    .aligned("u g y h0 hT", 8)
    .when(&gated_scan::tiles::fits)
    .kernel<gated_scan::tiles::Tiles, float, bf16>();
LS_KERNEL(GatedScan)
    .on(DeviceType::kCuda)
    .named("portable")
    .reads("u g y", lies::rows)
    .kernel<Portable, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
