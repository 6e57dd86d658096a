#include "core/ops/activation/activation.h"

#include <array>

#include "core/backend/cpu/parallel_for.h"
#include "core/backend/cpu/rows.h"
#include "core/ops/activation/functions.h"

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

constexpr Index kGrain = 1 << 14;

template <class T>
void activation_forward(const Activation::In<Tensor>& in, Activation::Out<Tensor>& out,
                        const Activation::Attrs& a) {
  using A = acc_t<T>;
  const Rows x(in.x);
  T* y = out.y.data<T>();
  act::dispatch(a.activation, [&]<class F>() {
    parallel_for(x.count, std::max<Index>(1, kGrain / std::max<Index>(1, x.cols)),
                 [&](Index r0, Index r1) {
                   for (Index r = r0; r < r1; ++r) {
                     const T* __restrict xp = x.row<T>(r);
                     T* __restrict yp = y + r * x.cols;
                     for (Index c = 0; c < x.cols; ++c) {
                       yp[c] = convert<T>(F::f(convert<A>(xp[c])));
                     }
                   }
                 });
  });
}

template <class T>
void activation_backward(const Activation::In<Tensor>& in, const Activation::Out<Tensor>&,
                         const Activation::Out<Tensor>& dout, Activation::In<Tensor>& din,
                         const Activation::Attrs& a) {
  using A = acc_t<T>;
  const Rows x(in.x), g(dout.y);
  T* dx = din.x.data<T>();
  act::dispatch(a.activation, [&]<class F>() {
    parallel_for(x.count, std::max<Index>(1, kGrain / std::max<Index>(1, x.cols)),
                 [&](Index r0, Index r1) {
                   for (Index r = r0; r < r1; ++r) {
                     const T* __restrict xp = x.row<T>(r);
                     const T* __restrict gp = g.row<T>(r);
                     T* __restrict dp = dx + r * x.cols;
                     for (Index c = 0; c < x.cols; ++c) {
                       dp[c] = convert<T>(convert<A>(gp[c]) * F::d(convert<A>(xp[c])));
                     }
                   }
                 });
  });
}

// On double the functions are the standard library's, so the same loops are the reference.
template <class Real>
struct ActivationRef {
  static void forward(const Activation::In<Tensor>& in, Activation::Out<Tensor>& out,
                      const Activation::Attrs& a) {
    activation_forward<Real>(in, out, a);
  }
  static void backward(const Activation::In<Tensor>& in, const Activation::Out<Tensor>& out,
                       const Activation::Out<Tensor>& dout, Activation::In<Tensor>& din,
                       const Activation::Attrs& a) {
    activation_backward<Real>(in, out, dout, din, a);
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
    .summary("elementwise activation")
    .reference<ActivationRef>()
    .cost(activation_cost);

LS_KERNEL(Activation)
    .forward<bf16>(&activation_forward<bf16>)
    .backward<bf16>(&activation_backward<bf16>);

}  // namespace
}  // namespace ls
