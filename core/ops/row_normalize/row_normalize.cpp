#include "core/ops/row_normalize/row_normalize.h"

#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = RowNormalize;

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x);
    const common::Joined<Real, 2> y(out.y);
    const Index last = x.size(1) - 1;
    for (Index r = 0; r < x.size(0); ++r) {
      for (Index i = 0; i < last; ++i) {
        y(r, i) = x(r, i) / (x(r, last) + Real(a.eps));
      }
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x), gy(dout.y);
    const common::Joined<Real, 2> gx(common::zeroed(din.x));
    const Index last = x.size(1) - 1;
    for (Index r = 0; r < x.size(0); ++r) {
      const Real divisor = x(r, last) + Real(a.eps);
      for (Index i = 0; i < last; ++i) {
        gx(r, i) = gy(r, i) / divisor;
        gx(r, last) -= gy(r, i) * x(r, i) / (divisor * divisor);
      }
    }
  }
};

LS_OP(RowNormalize, "row_normalize", "leading channels divided by the last")
    .in("x[...,D]")
    .out("y[...,D-1]")
    .saves("x")
    .reference<Reference>()
    .cost(2, 1);

}  // namespace
}  // namespace ls::ops
