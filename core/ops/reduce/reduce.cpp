#include "core/ops/reduce/reduce.h"

#include <cmath>
#include <vector>

#include "core/ops/reduce/axes.h"

namespace ls::ops {
namespace {

using Attrs = Reduce::Attrs;
using Kind = Reduce::Kind;

void bind(const Reduce::In<Tensor>& in, const Attrs& a, Bindings& b) {
  const auto reduced = reduced_axes(in.x.shape(), a);
  Shape shape;
  Index count = 1;
  for (int i = 0; i < in.x.rank(); ++i) {
    if (reduced[static_cast<std::size_t>(i)]) {
      count *= in.x.size(i);
    }
    if (!reduced[static_cast<std::size_t>(i)] || a.keep) {
      shape.push_back(reduced[static_cast<std::size_t>(i)] ? 1 : in.x.size(i));
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
        if (reduced[static_cast<std::size_t>(axis)]) {
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
  /// How many elements are reduced to one.
  static double count(const Shape& shape, const Attrs& a) {
    const auto reduced = reduced_axes(shape, a);
    Index n = 1;
    for (int axis = 0; axis < shape.rank(); ++axis) {
      n *= reduced[static_cast<std::size_t>(axis)] ? shape[axis] : 1;
    }
    return static_cast<double>(n);
  }
  static void forward(const Reduce::In<Tensor>& in, Reduce::Out<Tensor>& out, const Attrs& a) {
    const std::vector<Real> x = in.x.to_vector<Real>();
    std::vector<double> y(static_cast<std::size_t>(out.y.numel()));
    for_each_element(in.x.shape(), a, [&](Index i, Index to, Index place) {
      const auto value = static_cast<double>(x[static_cast<std::size_t>(i)]);
      double& result = y[static_cast<std::size_t>(to)];
      if (a.kind != Kind::kMax) {
        result += value;
      } else if (place == 0 || value > result || (std::isnan(value) && !std::isnan(result))) {
        result = value;
        out.index.data<std::int64_t>()[to] = place;
      }
    });
    const double divisor = a.kind == Kind::kMean ? count(in.x.shape(), a) : 1;
    for (std::size_t i = 0; i < y.size(); ++i) {
      out.y.data<Real>()[i] = static_cast<Real>(y[i] / divisor);
    }
  }
  static void backward(const Reduce::In<Tensor>&, const Reduce::Out<Tensor>& out,
                       const Reduce::Out<Tensor>& dout, Reduce::In<Tensor>& din, const Attrs& a) {
    const std::vector<Real> dy = dout.y.to_vector<Real>();
    const double divisor = a.kind == Kind::kMean ? count(din.x.shape(), a) : 1;
    for_each_element(din.x.shape(), a, [&](Index i, Index to, Index place) {
      const bool counts = a.kind != Kind::kMax || out.index.data<std::int64_t>()[to] == place;
      din.x.data<Real>()[i] =
          counts ? dy[static_cast<std::size_t>(to)] / static_cast<Real>(divisor) : Real(0);
    });
  }
};

Cost cost(const Reduce::In<Tensor>& in, const Attrs&) {
  return {.bytes = 1.0 * in.x.bytes(), .flops = 1.0 * in.x.numel()};
}

LS_OP(Reduce, "reduce", "sum, mean or maximum over axes")
    .in("x[...]")
    .out("y[...] index[...]:i64?")
    .saves("index")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
