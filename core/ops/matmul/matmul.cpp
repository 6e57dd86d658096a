#include "core/ops/matmul/matmul.h"

#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = Matmul;
using Attrs = Op::Attrs;

struct Sizes {
  Sizes(const Shape& a, const Shape& b, const Attrs& at)
      : m(a[a.rank() - (at.trans_a ? 1 : 2)]),
        k(a[a.rank() - (at.trans_a ? 2 : 1)]),
        n(b[b.rank() - (at.trans_b ? 2 : 1)]),
        k_of_b(b[b.rank() - (at.trans_b ? 1 : 2)]) {}
  Index m, k, n, k_of_b;
};

void bind(const Op::In<ShapeOf>& in, const Attrs& a, Bindings& b) {
  const Sizes s(in.a.shape(), in.b.shape(), a);
  LS_CHECK(s.k == s.k_of_b, kShape, "matmul: a {}{} and b {}{} share {} and {} elements in the sum",
           in.a.describe(), a.trans_a ? " transposed" : "", in.b.describe(),
           a.trans_b ? " transposed" : "", s.k, s.k_of_b);
  b.set("M", s.m);
  b.set("N", s.n);
}

/// op(a) of a stack: [z, i, j] of the matrices as the product reads them.
template <class T>
struct Matrices {
  T& operator()(Index z, Index i, Index j) const {
    return transposed ? stored(z, j, i) : stored(z, i, j);
  }
  common::Joined<T, 3> stored;
  bool transposed;
};

template <class Real>
struct Reference {
  using Input = common::Joined<const Real, 3>;
  using Result = common::Joined<Real, 3>;

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Attrs& at) {
    const Sizes s(in.a.shape(), in.b.shape(), at);
    const Matrices<const Real> a{Input(in.a), at.trans_a}, b{Input(in.b), at.trans_b};
    const Result c(out.c);
    for (Index z = 0; z < c.size(0); ++z) {
      for (Index i = 0; i < s.m; ++i) {
        for (Index j = 0; j < s.n; ++j) {
          Real sum = 0;
          for (Index p = 0; p < s.k; ++p) {
            sum += a(z, i, p) * b(z, p, j);
          }
          c(z, i, j) = Real(at.alpha) * sum;
        }
      }
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Attrs& at) {
    const Sizes s(in.a.shape(), in.b.shape(), at);
    const Matrices<const Real> a{Input(in.a), at.trans_a}, b{Input(in.b), at.trans_b};
    const Input gc(dout.c);
    auto d = common::zero_gradients(in, din);
    const Matrices<Real> ga{Result(d.a), at.trans_a}, gb{Result(d.b), at.trans_b};
    for (Index z = 0; z < gc.size(0); ++z) {
      for (Index p = 0; p < s.k; ++p) {
        for (Index i = 0; i < s.m; ++i) {
          Real sum = 0;
          for (Index j = 0; j < s.n; ++j) {
            sum += gc(z, i, j) * b(z, p, j);
          }
          ga(z, i, p) = Real(at.alpha) * sum;
        }
        for (Index j = 0; j < s.n; ++j) {
          Real sum = 0;
          for (Index i = 0; i < s.m; ++i) {
            sum += a(z, i, p) * gc(z, i, j);
          }
          gb(z, p, j) = Real(at.alpha) * sum;
        }
      }
    }
  }
};

Cost cost(const Op::In<ShapeOf>& in, const Attrs& at) {
  const Sizes s(in.a.shape(), in.b.shape(), at);
  const double elements = 1.0 * in.a.numel() / std::max<Index>(1, s.m * s.k) * s.m * s.n;
  return {.bytes = in.a.bytes() + in.b.bytes() + elements * dtype_size(in.a.dtype()),
          .flops = 2 * elements * s.k};
}

LS_OP(Matmul, "matmul", "matrix products over leading axes, with transposes")
    .in("a[...,P,Q] b[...,R,S]")
    .out("c[...,M,N]")
    .saves("a b")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
