// What tokens read of the state that came into their stretch.
#include "core/ops/matmul/matmul.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

/// [B,T,HO,D] as rows of the heads of the state, [B,H,HO/H*T,D].
Tensor by_head(const Tensor& x, Index heads) {
  const Index b = x.size(0), t = x.size(1), each = heads > 0 ? x.size(2) / heads : 0, d = x.size(3);
  return x.reshape({b, t, heads, each, d})
      .permute({0, 2, 3, 1, 4})
      .reshape({b, heads, each * t, d});
}

}  // namespace

Tensor read_states(const Tensor& reads, const Tensor& s) {
  const Index b = s.size(0), heads = s.size(1), t = reads.size(1), all = reads.size(2);
  const Tensor o = call_op<ops::Matmul>({.a = by_head(reads, heads), .b = s}).c;
  return o.reshape({b, heads, heads > 0 ? all / heads : 0, t, s.size(3)})
      .permute({0, 3, 1, 2, 4})
      .reshape({b, t, all, s.size(3)});
}

Tensor read_adjoint(const Tensor& reads, const Tensor& dout, Index heads) {
  return call_op<ops::Matmul>(
             {.a = by_head(reads, heads), .b = by_head(dout.to(reads.dtype()), heads)},
             {.trans_a = true})
      .c;
}

Tensors finish(const ScanInfo& scan, const LocalPart& local, const Tensors& states,
               const void* attrs) {
  Tensors out = local.out;
  Tensor& o = output_of(*scan.op, out, scan.read_by);
  o = read_states(local.reads, states[0]).add_(o.to(local.reads.dtype())).to(o.dtype());
  output_of(*scan.op, out, scan.states[0].output) = scan.act(local.summary, states, attrs)[0];
  return out;
}

}  // namespace ls::layers
