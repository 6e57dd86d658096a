// The blocks of the selective scan on the host, in place of the CPU's kernels.
#include "core/backend/cuda/host_machine.h"
#include "core/op/op.h"
#include "core/ops/selective_scan/selective_scan_blocks.h"

namespace ls::ops {
namespace {

bool always(const SelectiveScan::In<ShapeOf>&, const SelectiveScan::Attrs&) {
  return true;
}
template <class T>
using OnHost = selective_scan::Blocks<cuda::HostMachine, T>;

LS_KERNEL(SelectiveScan).named("blocks").when(&always).kernel<OnHost, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
