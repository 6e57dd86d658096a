#include "core/ops/linear_cross_entropy/linear_cross_entropy.h"

#include <cmath>

#include "core/ops/common/indices.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = LinearCrossEntropy;

void bind(const Op::In<ShapeOf>&, const Op::Attrs& a, Bindings& b) {
  if (!a.gradients) {
    b.drop_output("dx");
    b.drop_output("dw");
  }
}

/// Plain loops, one token at a time.
template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const View<const Real, 2> x(in.x), w(in.weight);
    if (!check_indices("linear_cross_entropy", "targets", in.targets, 0, w.size(0),
                       a.ignore_index)) {
      return leave_zero(out);
    }
    const View<const std::int64_t, 1> target(in.targets);
    const View<Real, 1> per_token(out.per_token);
    const View<std::int64_t, 1> predicted(out.predicted);
    View<Real, 2> dx, dw;
    if (a.gradients) {
      dx = View<Real, 2>(common::zeroed(out.dx));
      dw = View<Real, 2>(common::zeroed(out.dw));
    }
    const Index d = x.size(1), classes = w.size(0);
    Real total = 0;
    for (Index i = 0; i < x.size(0); ++i) {
      if (target(i) == a.ignore_index) {
        per_token(i) = 0;
        predicted(i) = a.ignore_index;
        continue;
      }
      Buffer<Real> logit(classes);
      Index best = 0;
      for (Index c = 0; c < classes; ++c) {
        for (Index k = 0; k < d; ++k) {
          logit(c) += x(i, k) * w(c, k);
        }
        best = logit(c) > logit(best) ? c : best;
      }
      Real rest = 0;  // besides the best class
      for (Index c = 0; c < classes; ++c) {
        rest += c == best ? Real(0) : std::exp(logit(c) - logit(best));
      }
      const Real z = 1 + rest;
      predicted(i) = best;
      per_token(i) = logit(best) - logit(target(i)) + std::log1p(rest);
      total += per_token(i);
      for (Index c = 0; dx && c < classes; ++c) {
        // p - 1 of the target, which may be nearly sure.
        const Real e = std::exp(logit(c) - logit(best));
        const Real others = target(i) == best ? rest : z - e;
        const Real g = (c == target(i) ? -others : e) / z;
        for (Index k = 0; k < d; ++k) {
          dx(i, k) += g * w(c, k);
          dw(c, k) += g * x(i, k);
        }
      }
    }
    out.loss.data<Real>()[0] = total;
  }
  static void backward(const Op::In<TensorView>&, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    LS_CHECK(a.gradients, kInternal, "linear_cross_entropy ran without gradients");
    const Real s = dout.loss.defined() ? dout.loss.data<Real>()[0] : Real(0);
    const auto scaled = [s](TensorView& to, const TensorView& from) {
      if (!to.defined()) {
        return;
      }
      const common::Joined<Real, 1> y(common::zeroed(to));
      const common::Joined<const Real, 1> x(from);
      for (Index i = 0; i < x.size(0); ++i) {
        y(i) += s * x(i);
      }
    };
    scaled(din.x, out.dx);
    scaled(din.weight, out.dw);
  }
};

Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs& a) {
  return {.bytes = 2.0 * (in.x.bytes() + in.weight.bytes()),
          .flops = (a.gradients ? 6.0 : 2.0) * in.targets.numel() * in.weight.numel()};
}

LS_OP(LinearCrossEntropy, "linear_cross_entropy", "cross-entropy fused with the output projection")
    .in("x[N,D] weight[V,D] targets[N]:i64")
    .out("loss[]:acc per_token[N]:acc predicted[N]:i64 dx[N,D]? dw[V,D]:acc?")
    .saves("dx dw")
    .gradient_in_forward("weight", "dw")
    .no_grad("per_token dx dw")
    .grad_acc("weight")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
