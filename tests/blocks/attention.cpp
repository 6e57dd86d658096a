// The blocks of softmax attention on the host, in place of the CPU's kernels.
#include "core/backend/cuda/host_machine.h"
#include "core/op/op.h"
#include "core/ops/attention/attention_blocks.h"

namespace ls::ops {
namespace {

bool always(const Attention::In<ShapeOf>&, const Attention::Attrs&) {
  return true;
}
template <class T>
using OnHost = attention::Blocks<cuda::HostMachine, T>;

LS_KERNEL(Attention)
    .named("blocks")
    .reads("q k v k0 v0 o kT vT", lies::heads)
    .strided_grad("q k v")
    .when(&always)
    .kernel<OnHost, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
