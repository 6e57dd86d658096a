#include "core/ops/linear_cross_entropy/linear_cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace ls::ops {
namespace {

using Op = LinearCrossEntropy;

void bind(const Op::In<Tensor>& in, const Op::Attrs& a, Bindings& b) {
  const Index classes = in.weight.size(0);
  const Tensor targets = in.targets.contiguous();
  const std::int64_t* t = targets.data<std::int64_t>();
  for (Index i = 0; i < targets.numel(); ++i) {
    LS_CHECK(t[i] == a.ignore_index || (t[i] >= 0 && t[i] < classes), kShape,
             "linear_cross_entropy: target {} at position {}, there are {} classes", t[i], i,
             classes);
  }
  if (!a.gradients) {
    b.drop_output("dx");
    b.drop_output("dw");
  }
}

/// Plain loops, one token at a time.
template <class Real>
struct Reference {
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    const Tensor x = in.x.contiguous(), w = in.weight.contiguous(),
                 targets = in.targets.contiguous();
    const Index n = x.size(0), d = x.size(1), v = w.size(0);
    const std::int64_t* t = targets.data<std::int64_t>();
    const auto count = n - std::count(t, t + n, a.ignore_index);
    const Real* xp = x.data<Real>();
    const Real* wp = w.data<Real>();
    if (a.gradients) {
      out.dx.zero_();
      out.dw.zero_();
    }
    std::vector<Real> logit(static_cast<std::size_t>(v));
    Real total = 0;
    for (Index i = 0; i < n; ++i) {
      Index best = 0;
      for (Index c = 0; c < v; ++c) {
        Real sum = 0;
        for (Index k = 0; k < d; ++k) {
          sum += xp[i * d + k] * wp[c * d + k];
        }
        logit[static_cast<std::size_t>(c)] = sum;
        best = sum > logit[static_cast<std::size_t>(best)] ? c : best;
      }
      const bool asked = t[i] != a.ignore_index;
      out.predicted.data<std::int64_t>()[i] = asked ? best : a.ignore_index;
      const Real top = logit[static_cast<std::size_t>(best)];
      Real z = 0;
      for (const Real l : logit) {
        z += std::exp(l - top);
      }
      const Real loss = asked ? top + std::log(z) - logit[static_cast<std::size_t>(t[i])] : Real(0);
      out.per_token.data<Real>()[i] = loss;
      total += loss;
      for (Index c = 0; c < v && asked && a.gradients; ++c) {
        const Real g = (std::exp(logit[static_cast<std::size_t>(c)] - top) / z - Real(c == t[i])) /
                       static_cast<Real>(count);
        for (Index k = 0; k < d; ++k) {
          out.dx.data<Real>()[i * d + k] += g * wp[c * d + k];
          out.dw.data<Real>()[c * d + k] += g * xp[i * d + k];
        }
      }
    }
    out.loss.data<Real>()[0] = count > 0 ? total / static_cast<Real>(count) : Real(0);
  }
  static void backward(const Op::In<Tensor>&, const Op::Out<Tensor>& out,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs& a) {
    LS_CHECK(a.gradients, kInternal, "linear_cross_entropy ran without gradients");
    const double s = dout.loss.defined() ? dout.loss.item() : 0.0;
    const auto scaled = [s](Tensor& to, const Tensor& from) {
      if (to.defined()) {
        to.zero_();
        to.add_(from, s);
      }
    };
    scaled(din.x, out.dx);
    scaled(din.weight, out.dw);
  }
};

Cost cost(const Op::In<Tensor>& in, const Op::Attrs& a) {
  const Tensor targets = in.targets.contiguous();
  const std::int64_t* const t = targets.data<std::int64_t>();
  const auto asked = targets.numel() - std::count(t, t + targets.numel(), a.ignore_index);
  const double products = (a.gradients ? 6.0 : 2.0) * static_cast<double>(asked) *
                          static_cast<double>(in.weight.numel());
  return {.bytes = 2.0 * static_cast<double>(in.x.bytes() + in.weight.bytes()), .flops = products};
}

LS_OP(LinearCrossEntropy, "linear_cross_entropy", "cross-entropy fused with the output projection")
    .in("x[N,D] weight[V,D] targets[N]:i64")
    .out("loss[]:acc per_token[N]:acc predicted[N]:i64 dx[N,D]? dw[V,D]:acc?")
    .saves("dx dw")
    .no_grad("per_token dx dw")
    .grad_acc("weight")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
