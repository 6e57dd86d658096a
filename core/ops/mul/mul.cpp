#include "core/ops/mul/mul.h"

#include "core/op/remade.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = Mul;

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const common::Joined<const Real, 1> a(in.a), b(in.b);
    const common::Joined<Real, 1> y(out.y);
    for (Index i = 0; i < y.size(0); ++i) {
      y(i) = a(i) * b(i);
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const common::Joined<const Real, 1> a(in.a), b(in.b), gy(dout.y);
    auto d = common::zero_gradients(in, din);
    const common::Joined<Real, 1> ga(d.a), gb(d.b);
    for (Index i = 0; i < gy.size(0); ++i) {
      ga(i) = gy(i) * b(i);
      gb(i) = gy(i) * a(i);
    }
  }
};

LS_OP(Mul, "mul", "elementwise product")
    .in("a[...] b[...]")
    .out("y[...]")
    .saves("a b")
    .reference<Reference>()
    .cost(3, 1);
LS_REMADE(Mul, "y");

}  // namespace
}  // namespace ls::ops
