#include "core/ops/matmul/matmul.h"

namespace ls::ops {
namespace {

using Attrs = Matmul::Attrs;

struct Sizes {
  Sizes(const Shape& a, const Shape& b, const Attrs& at)
      : m(a[a.rank() - (at.trans_a ? 1 : 2)]),
        k(a[a.rank() - (at.trans_a ? 2 : 1)]),
        n(b[b.rank() - (at.trans_b ? 2 : 1)]),
        k_of_b(b[b.rank() - (at.trans_b ? 1 : 2)]) {}
  Index m, k, n, k_of_b;
};

void bind(const Matmul::In<Tensor>& in, const Attrs& a, Bindings& b) {
  const Sizes s(in.a.shape(), in.b.shape(), a);
  LS_CHECK(s.k == s.k_of_b, kShape, "matmul: a {}{} and b {}{} share {} and {} elements in the sum",
           in.a.describe(), a.trans_a ? " transposed" : "", in.b.describe(),
           a.trans_b ? " transposed" : "", s.k, s.k_of_b);
  b.set("M", s.m);
  b.set("N", s.n);
}

Index stack_size(const Tensor& a) {
  Index n = 1;
  for (int axis = 0; axis < a.rank() - 2; ++axis) {
    n *= a.size(axis);
  }
  return n;
}

/// c = alpha * op(x) op(y), row-major, `batch` of them.
template <class Real>
void multiply(bool tx, bool ty, Index batch, Index m, Index n, Index k, double alpha, const Real* x,
              const Real* y, Real* c) {
  for (Index z = 0; z < batch; ++z, x += m * k, y += k * n, c += m * n) {
    for (Index i = 0; i < m; ++i) {
      for (Index j = 0; j < n; ++j) {
        Real sum = 0;
        for (Index p = 0; p < k; ++p) {
          sum += x[tx ? p * m + i : i * k + p] * y[ty ? j * k + p : p * n + j];
        }
        c[i * n + j] = static_cast<Real>(alpha) * sum;
      }
    }
  }
}

template <class Real>
struct Reference {
  static void forward(const Matmul::In<Tensor>& in, Matmul::Out<Tensor>& out, const Attrs& at) {
    const Sizes s(in.a.shape(), in.b.shape(), at);
    const Tensor a = in.a.contiguous(), b = in.b.contiguous();
    const Index batch = stack_size(in.a);
    multiply(at.trans_a, at.trans_b, batch, s.m, s.n, s.k, at.alpha, a.data<Real>(), b.data<Real>(),
             out.c.data<Real>());
  }
  static void backward(const Matmul::In<Tensor>& in, const Matmul::Out<Tensor>&,
                       const Matmul::Out<Tensor>& dout, Matmul::In<Tensor>& din, const Attrs& at) {
    const Sizes s(in.a.shape(), in.b.shape(), at);
    const Tensor a = in.a.contiguous(), b = in.b.contiguous(), dc = dout.c.contiguous();
    const Real *ap = a.data<Real>(), *bp = b.data<Real>(), *gp = dc.data<Real>();
    const Index batch = stack_size(in.a);
    if (din.a.defined()) {
      Real* da = din.a.data<Real>();
      if (at.trans_a) {
        multiply(at.trans_b, true, batch, s.k, s.m, s.n, at.alpha, bp, gp, da);
      } else {
        multiply(false, !at.trans_b, batch, s.m, s.k, s.n, at.alpha, gp, bp, da);
      }
    }
    if (din.b.defined()) {
      Real* db = din.b.data<Real>();
      if (at.trans_b) {
        multiply(true, at.trans_a, batch, s.n, s.k, s.m, at.alpha, gp, ap, db);
      } else {
        multiply(!at.trans_a, false, batch, s.k, s.n, s.m, at.alpha, ap, gp, db);
      }
    }
  }
};

Cost cost(const Matmul::In<Tensor>& in, const Attrs& at) {
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
