// The blocks of the GRU on the host, in place of the CPU's kernels.
#include "core/backend/cuda/host_machine.h"
#include "core/op/op.h"
#include "core/ops/gru/gru_blocks.h"

namespace ls::ops {
namespace {

bool always(const Gru::In<ShapeOf>&, const Gru::Attrs&) {
  return true;
}
template <class T>
using OnHost = gru::Blocks<cuda::HostMachine, T>;

LS_KERNEL(Gru)
    .named("blocks")
    .reads("gx y", lies::rows)
    .when(&always)
    .kernel<OnHost, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
