#include "core/ops/cumsum/cumsum.h"

#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = Cumsum;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs& a, Bindings&) {
  LS_CHECK(a.axis >= -in.x.rank() && a.axis < in.x.rank(), kShape, "cumsum: axis {} of a tensor {}",
           a.axis, in.x.describe());
}

template <class Real>
struct Reference {
  /// y[o, i, c] = sum of x[o, j, c] over j <= i, or over j >= i.
  static void sums(const TensorView& in, TensorView& out, int axis, bool from_the_end) {
    axis += axis < 0 ? in.rank() : 0;
    std::array<Index, 3> extents = {1, in.size(axis), 1};
    for (int i = 0; i < in.rank(); ++i) {
      extents[i < axis ? 0 : 2] *= i == axis ? 1 : in.size(i);
    }
    const auto [outer, n, inner] = extents;
    const View<const Real, 3> x(in.data<Real>(), extents);
    const View<Real, 3> y(out.data<Real>(), extents);
    for (Index o = 0; o < outer; ++o) {
      for (Index c = 0; c < inner; ++c) {
        double sum = 0;
        for (Index k = 0; k < n; ++k) {
          const Index i = from_the_end ? n - 1 - k : k;
          sum += double(x(o, i, c));
          y(o, i, c) = Real(sum);
        }
      }
    }
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    sums(in.x, out.y, a.axis, a.reverse);
  }
  static void backward(const Op::In<TensorView>&, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    sums(dout.y, din.x, a.axis, !a.reverse);
  }
};

LS_OP(Cumsum, "cumsum", "running sums along an axis, from either end")
    .in("x[...]")
    .out("y[...]")
    .saves("")
    .bind(bind)
    .reference<Reference>()
    .cost(2, 1);

}  // namespace
}  // namespace ls::ops
