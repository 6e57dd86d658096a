#include "core/ops/add_rms_norm/add_rms_norm.h"

#include <cmath>

namespace ls::ops {
namespace {

using Op = AddRmsNorm;

template <class Real>
struct Reference {
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    const Tensor x = in.x.contiguous(), residual = in.residual.contiguous(),
                 weight = in.weight.contiguous();
    const Real *xp = x.data<Real>(), *rp = residual.data<Real>(), *w = weight.data<Real>();
    Real *sum = out.sum.data<Real>(), *y = out.y.data<Real>();
    const Index d = x.size(-1);
    for (Index row = 0; row * d < x.numel(); ++row) {
      Real square = 0;
      for (Index i = row * d; i < (row + 1) * d; ++i) {
        sum[i] = rp[i] + xp[i];
        square += sum[i] * sum[i];
      }
      const Real k = 1 / std::sqrt(square / static_cast<Real>(d) + static_cast<Real>(a.eps));
      out.rstd.data<Real>()[row] = k;
      for (Index i = row * d; i < (row + 1) * d; ++i) {
        y[i] = sum[i] * k * w[i - row * d];
      }
    }
  }
  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>& out,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs&) {
    const auto given = [&](const Tensor& d) {
      return d.defined() ? d.contiguous() : Tensor::zeros(out.sum.shape(), out.sum.dtype());
    };
    const Tensor dy = given(dout.y), dsum = given(dout.sum), weight = in.weight.contiguous();
    const Real *g = dy.data<Real>(), *e = dsum.data<Real>(), *w = weight.data<Real>();
    const Real* s = out.sum.data<Real>();
    const Index d = out.sum.size(-1);
    Tensor& dx = din.x.defined() ? din.x : din.residual;
    if (din.weight.defined()) {
      din.weight.zero_();
    }
    for (Index row = 0; row * d < out.sum.numel(); ++row) {
      const Real k = out.rstd.data<Real>()[row];
      Real mean = 0;
      for (Index i = row * d; i < (row + 1) * d; ++i) {
        mean += g[i] * w[i - row * d] * s[i] / static_cast<Real>(d);
      }
      for (Index i = row * d; i < (row + 1) * d; ++i) {
        const Index c = i - row * d;
        const Real ds = e[i] + k * (g[i] * w[c] - s[i] * k * k * mean);
        if (dx.defined()) {
          dx.data<Real>()[i] = ds;
        }
        if (din.weight.defined()) {
          din.weight.data<Real>()[c] += g[i] * s[i] * k;
        }
      }
    }
  }
};

Cost cost(const Op::In<Tensor>& in, const Op::Attrs&) {
  return {.bytes = 4.0 * in.x.bytes(), .flops = 5.0 * in.x.numel()};
}

LS_OP(AddRmsNorm, "add_rms_norm", "residual sum and its root-mean-square norm")
    .in("x[...,D] residual[...,D] weight[D]:acc")
    .out("sum[...,D] y[...,D] rstd[...]:acc")
    .saves("weight sum rstd")
    .no_grad("rstd")
    .same_gradient("x", "residual")
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
