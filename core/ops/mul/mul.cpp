#include "core/ops/mul/mul.h"

#include <vector>

namespace ls::ops {
namespace {

template <class Real>
struct Reference {
  static void forward(const Mul::In<Tensor>& in, Mul::Out<Tensor>& out, const Mul::Attrs&) {
    const std::vector<Real> a = in.a.to_vector<Real>(), b = in.b.to_vector<Real>();
    for (std::size_t i = 0; i < a.size(); ++i) {
      out.y.data<Real>()[i] = a[i] * b[i];
    }
  }
  static void backward(const Mul::In<Tensor>& in, const Mul::Out<Tensor>&,
                       const Mul::Out<Tensor>& dout, Mul::In<Tensor>& din, const Mul::Attrs&) {
    const std::vector<Real> a = in.a.to_vector<Real>(), b = in.b.to_vector<Real>(),
                            dy = dout.y.to_vector<Real>();
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (din.a.defined()) {
        din.a.data<Real>()[i] = dy[i] * b[i];
      }
      if (din.b.defined()) {
        din.b.data<Real>()[i] = dy[i] * a[i];
      }
    }
  }
};

Cost cost(const Mul::In<Tensor>& in, const Mul::Attrs&) {
  return {.bytes = 3.0 * in.a.bytes(), .flops = 1.0 * in.a.numel()};
}

LS_OP(Mul, "mul", "elementwise product")
    .in("a[...] b[...]")
    .out("y[...]")
    .saves("a b")
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
