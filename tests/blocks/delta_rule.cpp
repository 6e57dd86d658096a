// The blocks of the delta rule on the host, in place of the CPU's kernels.
#include "core/backend/cuda/host_machine.h"
#include "core/op/op.h"
#include "core/ops/delta_rule/delta_rule_blocks.h"

namespace ls::ops {
namespace {

bool always(const DeltaRule::In<ShapeOf>&, const DeltaRule::Attrs&) {
  return true;
}
template <class T>
using OnHost = delta_rule::Blocks<cuda::HostMachine, T>;

LS_KERNEL(DeltaRule)
    .named("blocks")
    .reads("q k v a b gk o", lies::heads)
    .reads("g beta", lies::anyhow)
    .strided_grad("q k v a b")
    .when(&always)
    .kernel<OnHost, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
