#include "core/ops/linear/linear.h"

namespace ls::ops {
namespace {

template <class Real>
struct Reference {
  static void forward(const Linear::In<Tensor>& in, Linear::Out<Tensor>& out,
                      const Linear::Attrs&) {
    const Tensor x = in.x.contiguous(), w = in.weight.contiguous();
    const Index o = w.size(0), i = w.size(1),
                rows = i > 0 ? x.numel() / i : out.y.numel() / std::max<Index>(1, o);
    const Real* xp = x.data<Real>();
    const Real* wp = w.data<Real>();
    Real* yp = out.y.data<Real>();
    const Tensor b = in.bias.defined() ? in.bias.contiguous() : Tensor();
    for (Index r = 0; r < rows; ++r) {
      for (Index c = 0; c < o; ++c) {
        Real sum = b.defined() ? b.data<Real>()[c] : Real(0);
        for (Index k = 0; k < i; ++k) {
          sum += xp[r * i + k] * wp[c * i + k];
        }
        yp[r * o + c] = sum;
      }
    }
  }
  static void backward(const Linear::In<Tensor>& in, const Linear::Out<Tensor>&,
                       const Linear::Out<Tensor>& dout, Linear::In<Tensor>& din,
                       const Linear::Attrs&) {
    const Tensor x = in.x.contiguous(), w = in.weight.contiguous(), g = dout.y.contiguous();
    const Index o = w.size(0), i = w.size(1);
    const Index rows = o > 0 ? g.numel() / o : i > 0 ? x.numel() / i : 0;
    const Real* xp = x.data<Real>();
    const Real* wp = w.data<Real>();
    const Real* gp = g.data<Real>();
    if (din.x.defined()) {
      Real* dx = din.x.data<Real>();
      for (Index r = 0; r < rows; ++r) {
        for (Index k = 0; k < i; ++k) {
          Real sum = 0;
          for (Index c = 0; c < o; ++c) {
            sum += gp[r * o + c] * wp[c * i + k];
          }
          dx[r * i + k] = sum;
        }
      }
    }
    if (din.weight.defined()) {
      Real* dw = din.weight.data<Real>();
      for (Index c = 0; c < o; ++c) {
        for (Index k = 0; k < i; ++k) {
          Real sum = 0;
          for (Index r = 0; r < rows; ++r) {
            sum += gp[r * o + c] * xp[r * i + k];
          }
          dw[c * i + k] = sum;
        }
      }
    }
    if (din.bias.defined()) {
      Real* db = din.bias.data<Real>();
      for (Index c = 0; c < o; ++c) {
        db[c] = 0;
        for (Index r = 0; r < rows; ++r) {
          db[c] += gp[r * o + c];
        }
      }
    }
  }
};

Cost cost(const Linear::In<Tensor>& in, const Linear::Attrs&) {
  const double rows = 1.0 * in.x.numel() / std::max<Index>(1, in.x.size(-1));
  const double out = rows * in.weight.size(0) * dtype_size(in.x.dtype());
  return {.bytes = in.x.bytes() + in.weight.bytes() + out, .flops = 2 * rows * in.weight.numel()};
}

LS_OP(Linear, "linear", "dense projection x W^T + b")
    .in("x[...,I] weight[O,I] bias[O]:acc?")
    .out("y[...,O]")
    .saves("x weight")
    .grad_acc("weight")
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
