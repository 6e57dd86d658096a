#include "core/ops/bias_act/bias_act.h"

#include <vector>

#include "core/ops/common/activation_reference.h"

namespace ls::ops {
namespace {

template <class Real>
struct Reference {
  /// x + bias.
  static std::vector<Real> biased(const BiasAct::In<Tensor>& in) {
    std::vector<Real> x = in.x.to_vector<Real>();
    const Index d = in.x.size(-1);
    for (Index i = 0; in.bias.defined() && i < in.x.numel(); ++i) {
      x[static_cast<std::size_t>(i)] += static_cast<Real>(in.bias.slow_at(i % d));
    }
    return x;
  }
  static void forward(const BiasAct::In<Tensor>& in, BiasAct::Out<Tensor>& out,
                      const BiasAct::Attrs& a) {
    Real* y = out.y.data<Real>();
    for (const Real x : biased(in)) {
      *y++ = act::reference_value(a.activation, x);
    }
  }
  static void backward(const BiasAct::In<Tensor>& in, const BiasAct::Out<Tensor>&,
                       const BiasAct::Out<Tensor>& dout, BiasAct::In<Tensor>& din,
                       const BiasAct::Attrs& a) {
    const std::vector<Real> dy = dout.y.to_vector<Real>(), x = biased(in);
    if (din.bias.defined()) {
      din.bias.zero_();
    }
    for (Index i = 0; i < in.x.numel(); ++i) {
      const auto k = static_cast<std::size_t>(i);
      const Real dx = dy[k] * act::reference_slope(a.activation, x[k]);
      if (din.x.defined()) {
        din.x.data<Real>()[i] = dx;
      }
      if (din.bias.defined()) {
        din.bias.data<Real>()[i % in.x.size(-1)] += dx;
      }
    }
  }
};

Cost cost(const BiasAct::In<Tensor>& in, const BiasAct::Attrs&) {
  return {.bytes = 2.0 * in.x.bytes(), .flops = 9.0 * in.x.numel()};
}

LS_OP(BiasAct, "bias_act", "act(x + bias)")
    .in("x[...,D] bias[D]:acc?")
    .out("y[...,D]")
    .saves("x bias")
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
