#include "core/ops/cross_entropy/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/ops/common/indices.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = CrossEntropy;
using Reduction = Op::Reduction;

void bind(const Op::In<ShapeOf>&, const Op::Attrs& a, Bindings& b) {
  b.drop_output(a.reduction == Reduction::kNone ? "loss" : "losses");
}

template <class Real>
struct Reference {
  /// What one token is made of.
  struct Token {
    explicit Token(Index classes) : x(classes), slope(classes) {}
    Buffer<Real> x, slope;  ///< scores and their derivatives in the logits
    Real lse = 0;
    Real weight = 0;  ///< 0 where the target is ignored
    Index target = 0;
  };
  static bool targets_fit(const Op::In<TensorView>& in, const Op::Attrs& a) {
    return check_indices("cross_entropy", "targets", in.targets, 0, in.logits.size(-1),
                         a.ignore_index);
  }
  struct Call {
    Call(const Op::In<TensorView>& in, const Op::Attrs& a) {
      const Index n = in.targets.numel(), classes = in.logits.size(-1);
      const common::Joined<const Real, 2> logits(in.logits);
      const common::Joined<const std::int64_t, 1> targets(in.targets);
      const common::Joined<const Real, 1> weights(in.weights);
      for (Index r = 0; r < n; ++r) {
        Token& t = tokens.emplace_back(classes);
        t.target = targets(r);
        if (t.target != a.ignore_index) {
          t.weight = weights ? weights(r) : Real(1);
        }
        total += t.weight;
        Real top = -std::numeric_limits<Real>::infinity(), sum = 0;
        for (Index c = 0; c < classes; ++c) {
          const Real u = Real(a.logit_scale) * logits(r, c);
          const Real cap = Real(a.softcap), tanh = cap > 0 ? std::tanh(u / cap) : 0;
          t.x(c) = cap > 0 ? cap * tanh : u;
          t.slope(c) = Real(a.logit_scale) * (1 - tanh * tanh);
          top = std::max(top, t.x(c));
        }
        for (const Real x : t.x) {
          sum += std::exp(x - top);
        }
        t.lse = top + std::log(sum);
      }
      if (a.reduction == Reduction::kMean) {
        share = total > 0 ? 1 / total : Real(0);
      }
    }
    std::vector<Token> tokens;
    Real total = 0;  ///< of the weights
    Real share = 1;  ///< what each token's cost is multiplied by in the loss
  };

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    if (!targets_fit(in, a)) {
      return leave_zero(out);
    }
    Call call(in, a);
    const Real smooth = Real(a.label_smoothing), z = Real(a.z_loss);
    Real sum = 0;
    for (Index r = 0; r < std::ssize(call.tokens); ++r) {
      Token& t = call.tokens[r];
      Real cost = 0;
      if (t.target != a.ignore_index) {
        Real mean = 0;
        for (const Real x : t.x) {
          mean += x / Real(t.x.size());
        }
        cost =
            t.weight * (t.lse - (1 - smooth) * t.x(t.target) - smooth * mean + z * t.lse * t.lse);
      }
      sum += cost;
      if (a.reduction == Reduction::kNone) {
        out.losses.data<Real>()[r] = cost;
      }
      out.lse.data<Real>()[r] = t.lse;
    }
    if (a.reduction != Reduction::kNone) {
      out.loss.data<Real>()[0] = sum * call.share;
    }
  }

  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    if (!targets_fit(in, a)) {
      return leave_zero(din);
    }
    const Call call(in, a);
    const Real smooth = Real(a.label_smoothing), z = Real(a.z_loss);
    const common::Joined<const Real, 1> glosses(dout.losses), glse(dout.lse);
    Real* dlogits = din.logits.data<Real>();
    for (Index r = 0; r < std::ssize(call.tokens); ++r) {
      const Token& t = call.tokens[r];
      const Real dlse = common::or_zero(glse, r);
      Real dcost = 0;  // times the weight, which is 0 where the target is ignored
      if (dout.loss.defined()) {
        dcost = dout.loss.data<Real>()[0] * call.share * t.weight;
      } else if (glosses) {
        dcost = glosses(r) * t.weight;
      }
      for (Index c = 0; c < t.x.size(); ++c) {
        const Real p = std::exp(t.x(c) - t.lse);
        const Real slope =
            p - (1 - smooth) * Real(c == t.target) - smooth / Real(t.x.size()) + 2 * z * t.lse * p;
        *dlogits++ = (dcost * slope + dlse * p) * t.slope(c);
      }
    }
  }
};

LS_OP(CrossEntropy, "cross_entropy", "cross-entropy of logits against class indices")
    .in("logits[...,V] targets[...]:i64 weights[...]:acc?")
    .out("loss[]:acc? losses[...]:acc? lse[...]:acc")
    .saves("logits targets weights")
    .no_grad("weights")
    .bind(bind)
    .reference<Reference>()
    .cost(1, 10);

}  // namespace
}  // namespace ls::ops
