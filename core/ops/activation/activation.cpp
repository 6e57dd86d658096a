#include "core/ops/activation/activation.h"

#include <array>
#include <vector>

#include "core/ops/activation/reference.h"

namespace ls {

Act parse_activation(const std::string& name) {
  constexpr std::array<const char*, 13> kNames = {
      "identity", "exp",       "relu",     "relu2",      "sigmoid", "tanh",        "silu",
      "gelu_erf", "gelu_tanh", "softplus", "logsigmoid", "elu",     "elu_plus_one"};
  std::string all;
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (name == kNames[i]) {
      return static_cast<Act>(i);
    }
    all += (i ? ", " : "") + std::string(kNames[i]);
  }
  LS_FAIL(kConfig, "unknown activation '{}'; known: {}", name, all);
}

namespace {

template <class Real>
struct ActivationRef {
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

Cost activation_cost(const Activation::In<Tensor>& in, const Activation::Attrs&) {
  return {.bytes = 2.0 * static_cast<double>(in.x.bytes()),
          .flops = 8.0 * static_cast<double>(in.x.numel())};
}

LS_OP(Activation, "activation")
    .in("x[...]")
    .out("y[...]")
    .saves("x")
    .strided_grad("x")
    .summary("elementwise activation")
    .reference<ActivationRef>()
    .cost(activation_cost);

}  // namespace
}  // namespace ls
