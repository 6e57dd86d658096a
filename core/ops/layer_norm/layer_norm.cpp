#include "core/ops/layer_norm/layer_norm.h"

#include "core/ops/common/mean_norm_reference.h"

namespace ls::ops {
namespace {

template <class Real>
struct Reference {
  static void forward(const LayerNorm::In<Tensor>& in, LayerNorm::Out<Tensor>& out,
                      const LayerNorm::Attrs& a) {
    MeanNormReference<Real>::forward(in, out, 1, a);
  }
  static void backward(const LayerNorm::In<Tensor>& in, const LayerNorm::Out<Tensor>&,
                       const LayerNorm::Out<Tensor>& dout, LayerNorm::In<Tensor>& din,
                       const LayerNorm::Attrs& a) {
    MeanNormReference<Real>::backward(in, dout, din, 1, a);
  }
};

Cost cost(const LayerNorm::In<Tensor>& in, const LayerNorm::Attrs&) {
  const bool gated = in.z.defined();
  return {.bytes = (gated ? 3.0 : 2.0) * in.x.bytes(),
          .flops = (gated ? 16.0 : 8.0) * in.x.numel()};
}

LS_OP(LayerNorm, "layer_norm", "layer norm, gated")
    .in("x[...,D] weight[D]:acc? bias[D]:acc? z[...,D]?")
    .out("y[...,D] mean[...]:acc rstd[...]:acc")
    .saves("x weight bias z mean rstd")
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
