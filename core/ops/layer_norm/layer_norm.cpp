#include "core/ops/layer_norm/layer_norm.h"

#include "core/ops/layer_norm/mean_norm.h"

namespace ls {
namespace {

MeanNormArgs args(const LayerNorm::Attrs& a) {
  return {.groups = 1, .eps = a.eps, .norm_before_gate = a.norm_before_gate};
}

template <class T>
struct LayerNormRows {
  static void forward(const LayerNorm::In<Tensor>& in, LayerNorm::Out<Tensor>& out,
                      const LayerNorm::Attrs& a) {
    mean_norm_forward<T>(in, out, args(a));
  }
  static void backward(const LayerNorm::In<Tensor>& in, const LayerNorm::Out<Tensor>& out,
                       const LayerNorm::Out<Tensor>& dout, LayerNorm::In<Tensor>& din,
                       const LayerNorm::Attrs& a) {
    mean_norm_backward<T>(in, out, dout, din, args(a));
  }
};

Cost layer_norm_cost(const LayerNorm::In<Tensor>& in, const LayerNorm::Attrs&) {
  const bool gated = in.z.defined();
  return {.bytes = (gated ? 3.0 : 2.0) * static_cast<double>(in.x.bytes()),
          .flops = (gated ? 16.0 : 8.0) * static_cast<double>(in.x.numel())};
}

LS_OP(LayerNorm, "layer_norm")
    .in("x[...,D] weight[D]:acc? bias[D]:acc? z[...,D]?")
    .out("y[...,D] mean[...]:acc rstd[...]:acc")
    .saves("x weight bias z mean rstd")
    .summary("layer norm, gated")
    .reference<LayerNormRows>()
    .cost(layer_norm_cost);

LS_KERNEL(LayerNorm)
    .forward<bf16>(&LayerNormRows<bf16>::forward)
    .backward<bf16>(&LayerNormRows<bf16>::backward);

}  // namespace
}  // namespace ls
