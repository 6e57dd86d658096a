// The blocks of the LSTM on the host, in place of the CPU's kernels.
#include "core/backend/cuda/host_machine.h"
#include "core/op/op.h"
#include "core/ops/lstm/lstm_blocks.h"

namespace ls::ops {
namespace {

bool always(const Lstm::In<ShapeOf>&, const Lstm::Attrs&) {
  return true;
}
template <class T>
using OnHost = lstm::Blocks<cuda::HostMachine, T>;

LS_KERNEL(Lstm)
    .named("blocks")
    .reads("gx y", lies::rows)
    .when(&always)
    .kernel<OnHost, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
