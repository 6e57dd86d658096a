// The blocks of the matrix LSTM on the host, in place of the CPU's kernels.
#include "core/backend/cuda/host_machine.h"
#include "core/op/op.h"
#include "core/ops/mlstm/mlstm_blocks.h"

namespace ls::ops {
namespace {

bool always(const Mlstm::In<ShapeOf>&, const Mlstm::Attrs&) {
  return true;
}
template <class T>
using OnHost = mlstm::Blocks<cuda::HostMachine, T>;

LS_KERNEL(Mlstm)
    .named("blocks")
    .reads("q k v o", lies::heads)
    .reads("i f", lies::anyhow)
    .strided_grad("q k v")
    .when(&always)
    .kernel<OnHost, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
