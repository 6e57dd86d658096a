#include "core/ops/linear/linear.h"

#include "core/op/remade.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = Linear;

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const common::Joined<const Real, 2> x(in.x), w(in.weight);
    const View<const Real, 1> bias(in.bias);
    const common::Joined<Real, 2> y(out.y);
    for (Index r = 0; r < y.size(0); ++r) {
      for (Index o = 0; o < w.size(0); ++o) {
        Real sum = common::or_zero(bias, o);
        for (Index i = 0; i < w.size(1); ++i) {
          sum += x(r, i) * w(o, i);
        }
        y(r, o) = sum;
      }
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const common::Joined<const Real, 2> x(in.x), w(in.weight), gy(dout.y);
    auto d = common::zero_gradients(in, din);
    const common::Joined<Real, 2> gx(d.x), gw(d.weight);
    const View<Real, 1> gbias(d.bias);
    const Index rows = gy.size(0), outputs = w.size(0), inputs = w.size(1);
    for (Index r = 0; r < rows; ++r) {
      for (Index i = 0; i < inputs; ++i) {
        Real sum = 0;
        for (Index o = 0; o < outputs; ++o) {
          sum += gy(r, o) * w(o, i);
        }
        gx(r, i) = sum;
      }
    }
    for (Index o = 0; o < outputs; ++o) {
      for (Index i = 0; i < inputs; ++i) {
        Real sum = 0;
        for (Index r = 0; r < rows; ++r) {
          sum += gy(r, o) * x(r, i);
        }
        gw(o, i) = sum;
      }
      if (gbias) {
        for (Index r = 0; r < rows; ++r) {
          gbias(o) += gy(r, o);
        }
      }
    }
  }
};

Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs&) {
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
LS_REMADE(Linear, "y").level(Remake::kProducts);

}  // namespace
}  // namespace ls::ops
