#include "core/ops/reduce/reduce.h"

#include <cmath>

#include "core/ops/common/reference.h"
#include "core/ops/reduce/axes.h"

namespace ls::ops {
namespace {

using Op = Reduce;
using Attrs = Op::Attrs;
using Kind = Op::Kind;

void bind(const Op::In<ShapeOf>& in, const Attrs& a, Bindings& b) {
  const auto reduced = reduced_axes(in.x.shape(), a);
  Shape shape;
  Index count = 1;
  for (int i = 0; i < in.x.rank(); ++i) {
    if (reduced[i]) {
      count *= in.x.size(i);
    }
    if (!reduced[i] || a.keep) {
      shape.push_back(reduced[i] ? 1 : in.x.size(i));
    }
  }
  LS_CHECK(a.kind != Kind::kMax || count > 0 || shape.numel() == 0, kShape,
           "reduce: the maximum over no elements of {}", in.x.describe());
  b.ellipsis = shape;  // that of the outputs
  if (a.kind != Kind::kMax) {
    b.drop_output("index");
  }
}

template <class Real>
struct Reference {
  /// f(element of x, element of y that it goes to, its place among those that go there).
  template <class F>
  static void for_each_element(const Shape& shape, const Attrs& a, F&& f) {
    const auto reduced = reduced_axes(shape, a);
    for (Index i = 0; i < shape.numel(); ++i) {
      Index rest = i, to = 0, to_step = 1, place = 0, place_step = 1;
      for (int axis = shape.rank() - 1; axis >= 0; --axis) {
        const Index at = rest % shape[axis];
        rest /= shape[axis];
        if (reduced[axis]) {
          place += at * place_step;
          place_step *= shape[axis];
        } else {
          to += at * to_step;
          to_step *= shape[axis];
        }
      }
      f(i, to, place);
    }
  }
  /// What the sum of `from` elements, reduced to `to`, is divided by.
  static double divisor(const Attrs& a, Index from, Index to) {
    return a.kind == Kind::kMean && to > 0 ? double(from / to) : 1;
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Attrs& a) {
    const common::Joined<const Real, 1> x(in.x);
    const common::Joined<Real, 1> y(out.y);
    const common::Joined<std::int64_t, 1> index(out.index);
    Buffer<double> results(y.size(0));
    for_each_element(in.x.shape(), a, [&](Index i, Index to, Index place) {
      const double value = double(x(i));
      double& result = results(to);
      if (a.kind != Kind::kMax) {
        result += value;
      } else if (place == 0 || value > result || (std::isnan(value) && !std::isnan(result))) {
        result = value;
        index(to) = place;
      }
    });
    const double by = divisor(a, x.size(0), y.size(0));
    for (Index i = 0; i < y.size(0); ++i) {
      y(i) = Real(results(i) / by);
    }
  }
  static void backward(const Op::In<TensorView>&, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Attrs& a) {
    const common::Joined<const std::int64_t, 1> index(out.index);
    const common::Joined<const Real, 1> gy(dout.y);
    const common::Joined<Real, 1> gx(din.x);
    const Real by = Real(divisor(a, gx.size(0), gy.size(0)));
    for_each_element(din.x.shape(), a, [&](Index i, Index to, Index place) {
      const bool counts = a.kind != Kind::kMax || index(to) == place;
      gx(i) = counts ? gy(to) / by : Real(0);
    });
  }
};

LS_OP(Reduce, "reduce", "sum, mean or maximum over axes")
    .in("x[...]")
    .out("y[...] index[...]:i64?")
    .saves("index")
    .bind(bind)
    .reference<Reference>()
    .cost(1, 1);

}  // namespace
}  // namespace ls::ops
