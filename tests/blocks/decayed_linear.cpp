// The blocks of the decayed linear attention on the host, in place of the CPU's kernels.
#include "core/backend/cuda/host_machine.h"
#include "core/op/op.h"
#include "core/ops/decayed_linear/decayed_linear_blocks.h"

namespace ls::ops {
namespace {

bool always(const DecayedLinear::In<ShapeOf>&, const DecayedLinear::Attrs&) {
  return true;
}
template <class T>
using OnHost = decayed_linear::Blocks<cuda::HostMachine, T>;

LS_KERNEL(DecayedLinear)
    .named("blocks")
    .reads("q k v gk gv o", lies::heads)
    .reads("g", lies::anyhow)
    .strided_grad("q k v")
    .when(&always)
    .kernel<OnHost, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
