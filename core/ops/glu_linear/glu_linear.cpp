#include "core/ops/glu_linear/glu_linear.h"

#include <algorithm>

#include "core/ops/common/activations.h"

namespace ls::ops {
namespace {

using Op = GluLinear;

/// Plain loops, one row at a time.
template <class Real>
struct Reference {
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    const Tensor x = in.x.contiguous(), w = in.weight.contiguous();
    const Index d = w.size(0), f = w.size(1), rows = d > 0 ? out.y.numel() / d : 0;
    act::dispatch(a.activation, [&]<class F>() {
      for (Index r = 0; r < rows; ++r) {
        const Real* gate = x.data<Real>() + 2 * r * f;
        for (Index o = 0; o < d; ++o) {
          Real sum = 0;
          for (Index c = 0; c < f; ++c) {
            sum += F::f(gate[c]) * gate[f + c] * w.data<Real>()[o * f + c];
          }
          out.y.data<Real>()[r * d + o] = sum;
        }
      }
    });
  }
  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs& a) {
    const Tensor x = in.x.contiguous(), w = in.weight.contiguous(), dy = dout.y.contiguous();
    const Index d = w.size(0), f = w.size(1), rows = f > 0 ? x.numel() / (2 * f) : 0;
    if (din.weight.defined()) {
      din.weight.zero_();
    }
    if (din.x.defined()) {
      din.x.zero_();
    }
    act::dispatch(a.activation, [&]<class F>() {
      for (Index r = 0; r < rows; ++r) {
        const Real* gate = x.data<Real>() + 2 * r * f;
        for (Index o = 0; o < d; ++o) {
          const Real g = dy.data<Real>()[r * d + o];
          for (Index c = 0; c < f; ++c) {
            if (din.weight.defined()) {
              din.weight.data<Real>()[o * f + c] += g * F::f(gate[c]) * gate[f + c];
            }
            if (din.x.defined()) {
              const Real dh = g * w.data<Real>()[o * f + c];
              Real* dgate = din.x.data<Real>() + 2 * r * f;
              dgate[c] += dh * gate[f + c] * F::d(gate[c]);
              dgate[f + c] += dh * F::f(gate[c]);
            }
          }
        }
      }
    });
  }
};

Cost cost(const Op::In<Tensor>& in, const Op::Attrs&) {
  const double hidden = 0.5 * in.x.numel();
  const double out = hidden / std::max<Index>(1, in.weight.size(1)) * in.weight.size(0);
  return {.bytes = (2 * hidden + in.weight.numel() + out) * dtype_size(in.x.dtype()),
          .flops = 2 * hidden * in.weight.size(0) + 5 * hidden};
}

LS_OP(GluLinear, "glu_linear",
      "gated linear unit and the projection behind it: (act(gate) * up) W^T")
    .in("x[...,2*F] weight[D,F]")
    .out("y[...,D]")
    .saves("x weight")
    .grad_acc("weight")
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
