#include "core/ops/cross_entropy/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace ls::ops {
namespace {

using Attrs = CrossEntropy::Attrs;
using Reduction = CrossEntropy::Reduction;

void cross_entropy_bind(const CrossEntropy::In<Tensor>& in, const Attrs& a, Bindings& b) {
  const std::vector<std::int64_t> targets = in.targets.to_vector<std::int64_t>();
  const Index classes = in.logits.size(-1);
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const std::int64_t t = targets[i];
    LS_CHECK(t == a.ignore_index || (t >= 0 && t < classes), kShape,
             "cross_entropy: target {} of token {} is outside 0 .. {} and is not ignore_index {}",
             t, i, classes - 1, a.ignore_index);
  }
  b.drop_output(a.reduction == Reduction::kNone ? "loss" : "losses");
}

template <class Real>
struct CrossEntropyRef {
  /// What one token is made of.
  struct Token {
    std::vector<Real> x, slope;  ///< scores and their derivatives in the logits
    Real lse = 0;
    Real weight = 0;  ///< 0 where the target is ignored
    Index target = 0;
  };
  static std::vector<Token> tokens(const CrossEntropy::In<Tensor>& in, const Attrs& a) {
    const std::vector<Real> logits = in.logits.to_vector<Real>();
    const std::vector<std::int64_t> targets = in.targets.to_vector<std::int64_t>();
    const Index classes = in.logits.size(-1);
    std::vector<Token> all;
    for (Index r = 0; r < in.targets.numel(); ++r) {
      Token t;
      t.target = targets[static_cast<std::size_t>(r)];
      if (t.target != a.ignore_index) {
        t.weight = in.weights.defined() ? static_cast<Real>(in.weights.at(r)) : Real(1);
      }
      Real top = -std::numeric_limits<Real>::infinity(), sum = 0;
      for (Index c = 0; c < classes; ++c) {
        const Real u =
            static_cast<Real>(a.logit_scale) * logits[static_cast<std::size_t>(r * classes + c)];
        const Real cap = static_cast<Real>(a.softcap), tanh = cap > 0 ? std::tanh(u / cap) : 0;
        t.x.push_back(cap > 0 ? cap * tanh : u);
        t.slope.push_back(static_cast<Real>(a.logit_scale) * (1 - tanh * tanh));
        top = std::max(top, t.x.back());
      }
      for (const Real x : t.x) {
        sum += std::exp(x - top);
      }
      t.lse = top + std::log(sum);
      all.push_back(std::move(t));
    }
    return all;
  }
  /// What each token's cost is multiplied by in the loss.
  static Real share(const std::vector<Token>& all, const Attrs& a) {
    Real total = 0;
    for (const Token& t : all) {
      total += t.weight;
    }
    return a.reduction != Reduction::kMean ? Real(1) : total > 0 ? 1 / total : Real(0);
  }

  static void forward(const CrossEntropy::In<Tensor>& in, CrossEntropy::Out<Tensor>& out,
                      const Attrs& a) {
    const std::vector<Token> all = tokens(in, a);
    const Real smooth = static_cast<Real>(a.label_smoothing), z = static_cast<Real>(a.z_loss);
    Real sum = 0;
    for (std::size_t r = 0; r < all.size(); ++r) {
      const Token& t = all[r];
      Real cost = 0;
      if (t.target != a.ignore_index) {
        Real mean = 0;
        for (const Real x : t.x) {
          mean += x / static_cast<Real>(t.x.size());
        }
        cost = t.weight * (t.lse - (1 - smooth) * t.x[static_cast<std::size_t>(t.target)] -
                           smooth * mean + z * t.lse * t.lse);
      }
      sum += cost;
      if (a.reduction == Reduction::kNone) {
        out.losses.data<Real>()[r] = cost;
      }
      out.lse.data<Real>()[r] = t.lse;
    }
    if (a.reduction != Reduction::kNone) {
      out.loss.data<Real>()[0] = sum * share(all, a);
    }
  }

  static void backward(const CrossEntropy::In<Tensor>& in, const CrossEntropy::Out<Tensor>&,
                       const CrossEntropy::Out<Tensor>& dout, CrossEntropy::In<Tensor>& din,
                       const Attrs& a) {
    const std::vector<Token> all = tokens(in, a);
    const Real smooth = static_cast<Real>(a.label_smoothing), z = static_cast<Real>(a.z_loss);
    const Real per_token = share(all, a);
    Real* dlogits = din.logits.data<Real>();
    for (std::size_t r = 0; r < all.size(); ++r) {
      const Token& t = all[r];
      const auto at = static_cast<Index>(r);
      const Real dlse = dout.lse.defined() ? static_cast<Real>(dout.lse.at(at)) : Real(0);
      Real dcost = 0;  // times the weight, which is 0 where the target is ignored
      if (dout.loss.defined()) {
        dcost = static_cast<Real>(dout.loss.item()) * per_token * t.weight;
      } else if (dout.losses.defined()) {
        dcost = static_cast<Real>(dout.losses.at(at)) * t.weight;
      }
      for (std::size_t c = 0; c < t.x.size(); ++c) {
        const Real p = std::exp(t.x[c] - t.lse);
        const Real hit = Real(static_cast<Index>(c) == t.target);
        const Real slope =
            p - (1 - smooth) * hit - smooth / static_cast<Real>(t.x.size()) + 2 * z * t.lse * p;
        *dlogits++ = (dcost * slope + dlse * p) * t.slope[c];
      }
    }
  }
};

Cost cross_entropy_cost(const CrossEntropy::In<Tensor>& in, const Attrs&) {
  return {.bytes = static_cast<double>(in.logits.bytes()),
          .flops = 10.0 * static_cast<double>(in.logits.numel())};
}

LS_OP(CrossEntropy, "cross_entropy", "cross-entropy of logits against class indices")
    .in("logits[...,V] targets[...]:i64 weights[...]:acc?")
    .out("loss[]:acc? losses[...]:acc? lse[...]:acc")
    .saves("logits targets weights")
    .no_grad("weights")
    .bind(cross_entropy_bind)
    .reference<CrossEntropyRef>()
    .cost(cross_entropy_cost);

}  // namespace
}  // namespace ls::ops
