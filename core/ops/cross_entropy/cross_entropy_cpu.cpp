// Rows of logits are shared out over threads; a thread reads a row once, holds its scores x and
// p = e^(x - top) in a buffer [2,V], and owns the row's loss, lse and gradient. The loss is formed
// from top - x and log(sum), so that a large top cancels before it is rounded; losses [N] are added
// in their order, in double. Forward moves the logits, backward logits and gradient.
#include "core/ops/cross_entropy/cross_entropy.h"

#include <cmath>
#include <limits>

#include "core/backend/cpu/simd_math.h"
#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/elements.h"
#include "core/ops/common/indices.h"
#include "core/tensor/rows.h"
#include "core/tensor/view.h"

namespace ls::ops {
namespace {

using Op = CrossEntropy;
using Reduction = Op::Reduction;
constexpr Index kLogits = 4096;  // of a piece of rows, at least

bool targets_fit(const Op::In<TensorView>& in, const Op::Attrs& a) {
  return check_indices("cross_entropy", "targets", in.targets, 0, in.logits.size(-1),
                       a.ignore_index);
}

/// Targets and weights of the tokens; a weight of 0 where the target is ignored.
template <class A>
struct Tokens {
  Tokens(const Op::In<TensorView>& in, const Op::Attrs& a)
      : targets(in.targets.data<std::int64_t>()), weights(in.targets.numel(), A(1)) {
    if (in.weights.defined()) {
      std::copy_n(in.weights.data<A>(), weights.size(), weights.data());
    }
    for (Index i = 0; i < std::ssize(weights); ++i) {
      if (target(i) == a.ignore_index) {
        weights[i] = 0;
      }
      total += weights[i];
    }
  }
  Index target(Index i) const { return targets[i]; }
  /// What the sum over tokens is multiplied by.
  double share(const Op::Attrs& a) const {
    if (a.reduction != Reduction::kMean) {
      return 1.0;
    }
    return total > 0 ? 1.0 / total : 0.0;
  }

  const std::int64_t* targets;
  std::vector<A> weights;
  double total = 0;
};

template <class A>
struct Scores {
  A top, sum, mean_below;  // mean_below: mean of top - x
};

/// x[c] = capped scores; p[c] = exp(x[c] - top).
template <class T, class A>
Scores<A> scores(const T* logits, Index classes, const Op::Attrs& a, A* x, A* p) {
  const A scale = A(a.logit_scale);
  for (Index c = 0; c < classes; ++c) {
    x[c] = scale * convert<A>(logits[c]);
  }
  if (a.softcap > 0) {
    const A cap = A(a.softcap), inverse = A(1 / a.softcap);
    for (Index c = 0; c < classes; ++c) {
      x[c] = cap * simd::tanh(x[c] * inverse);
    }
  }
  A top = -std::numeric_limits<A>::infinity(), sum = 0, below = 0;
#pragma omp simd reduction(max : top)
  for (Index c = 0; c < classes; ++c) {
    top = x[c] > top ? x[c] : top;
  }
#pragma omp simd reduction(+ : sum, below)
  for (Index c = 0; c < classes; ++c) {
    p[c] = simd::exp(x[c] - top);
    sum += p[c];
    below += top - x[c];
  }
  return {top, sum, below / A(classes)};
}

template <class T>
void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
  using A = acc_t<T>;
  const Rows logits(in.logits);
  if (!targets_fit(in, a)) {
    return leave_zero(out);
  }
  const Tokens<A> tokens(in, a);
  const Index classes = logits.cols;
  const A smooth = A(a.label_smoothing), z = A(a.z_loss);
  Buffer<A> losses(logits.count);
  A* lse = out.lse.data<A>();
  parallel_for(logits.count, row_grain(classes, kLogits), [&](Index r0, Index r1) {
    Buffer<A, 2> buffer(2, classes);
    A* const x = buffer.data();
    for (Index r = r0; r < r1; ++r) {
      const auto [top, sum, mean_below] = scores(logits.row<T>(r), classes, a, x, x + classes);
      const A log_sum = std::log(sum), weight = tokens.weights[r];
      lse[r] = top + log_sum;
      A& loss = losses(r);
      loss = 0;
      if (tokens.target(r) != a.ignore_index) {
        const A below = top - x[tokens.target(r)];
        loss = weight * (log_sum + (1 - smooth) * below + z * lse[r] * lse[r]);
        loss += smooth > 0 ? weight * smooth * mean_below : A(0);
      }
    }
  });
  if (a.reduction == Reduction::kNone) {
    std::copy(losses.begin(), losses.end(), out.losses.data<A>());
    return;
  }
  double total = 0;
  for (const A loss : losses) {
    total += loss;
  }
  *out.loss.data<A>() = A(total * tokens.share(a));
}

template <class T>
void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
              const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs& a) {
  using A = acc_t<T>;
  if (!targets_fit(in, a)) {
    return leave_zero(din);
  }
  const Rows logits(in.logits);
  const Tokens<A> tokens(in, a);
  const Index classes = logits.cols;
  const A smooth = A(a.label_smoothing), z = A(a.z_loss);
  const A scale = A(a.logit_scale), share = A(tokens.share(a));
  const double dloss = dout.loss.defined() ? double(*dout.loss.data<A>()) : 0.0;
  const A* const dlosses = common::elements<A>(dout.losses);
  const A* const dlse = common::elements<A>(dout.lse);
  T* dx = din.logits.data<T>();
  parallel_for(logits.count, row_grain(classes, kLogits), [&](Index r0, Index r1) {
    Buffer<A, 2> buffer(2, classes);
    A* const x = buffer.data();
    A* const p = x + classes;
    for (Index r = r0; r < r1; ++r) {
      const auto [top, sum, mean_below] = scores(logits.row<T>(r), classes, a, x, p);
      const Index target = tokens.target(r);
      A seed = dlosses ? dlosses[r] : A(dloss);
      seed *= tokens.weights[r] * share;
      A spread = seed * (1 + 2 * z * (top + std::log(sum)));
      if (target == a.ignore_index) {
        seed = spread = 0;
      }
      spread = (spread + (dlse ? dlse[r] : A(0))) / sum;
      const A even = seed * smooth / A(classes);
      for (Index c = 0; c < classes; ++c) {
        p[c] = p[c] * spread - even;
      }
      if (target != a.ignore_index) {
        p[target] -= (1 - smooth) * seed;
      }
      if (a.softcap > 0) {
        const A inverse = A(1 / a.softcap);
        for (Index c = 0; c < classes; ++c) {
          const A t = x[c] * inverse;
          p[c] *= (1 - t) * (1 + t);
        }
      }
      for (Index c = 0; c < classes; ++c) {
        dx[r * classes + c] = convert<T>(p[c] * scale);
      }
    }
  });
}

LS_KERNEL(CrossEntropy).reads("logits", lies::rows).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
