#include "core/ops/activation/activation.h"

#include "core/ops/common/activation_reference.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = Activation;

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const common::Joined<const Real, 1> x(in.x);
    const common::Joined<Real, 1> y(out.y);
    for (Index i = 0; i < x.size(0); ++i) {
      y(i) = act::reference_value(a.activation, x(i));
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const common::Joined<const Real, 1> x(in.x), gy(dout.y);
    const common::Joined<Real, 1> gx(din.x);
    for (Index i = 0; i < x.size(0); ++i) {
      gx(i) = gy(i) * act::reference_slope(a.activation, x(i));
    }
  }
};

LS_OP(Activation, "activation", "elementwise activation")
    .in("x[...]")
    .out("y[...]")
    .saves("x")
    .reference<Reference>()
    .cost(2, 8);

}  // namespace
}  // namespace ls::ops
