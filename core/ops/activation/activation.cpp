#include "core/ops/activation/activation.h"

#include <vector>

#include "core/ops/common/activation_reference.h"

namespace ls::ops {

namespace {

template <class Real>
struct Reference {
  static void forward(const Activation::In<Tensor>& in, Activation::Out<Tensor>& out,
                      const Activation::Attrs& a) {
    Real* y = out.y.data<Real>();
    for (const Real x : in.x.to_vector<Real>()) {
      *y++ = act::reference_value(a.activation, x);
    }
  }
  static void backward(const Activation::In<Tensor>& in, const Activation::Out<Tensor>&,
                       const Activation::Out<Tensor>& dout, Activation::In<Tensor>& din,
                       const Activation::Attrs& a) {
    const std::vector<Real> dy = dout.y.to_vector<Real>(), x = in.x.to_vector<Real>();
    for (std::size_t i = 0; i < x.size(); ++i) {
      din.x.data<Real>()[i] = dy[i] * act::reference_slope(a.activation, x[i]);
    }
  }
};

Cost cost(const Activation::In<Tensor>& in, const Activation::Attrs&) {
  return {.bytes = 2.0 * in.x.bytes(), .flops = 8.0 * in.x.numel()};
}

LS_OP(Activation, "activation", "elementwise activation")
    .in("x[...]")
    .out("y[...]")
    .saves("x")
    .strided_grad("x")
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
