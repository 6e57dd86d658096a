#include "core/ops/cross_entropy/cross_entropy.h"

#include <cmath>
#include <limits>

#include "core/backend/cpu/simd_math.h"
#include "core/base/parallel_for.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

using Attrs = CrossEntropy::Attrs;
using Reduction = CrossEntropy::Reduction;

Index grain(Index classes) {
  return std::max<Index>(1, 4096 / std::max<Index>(1, classes));
}

/// Targets and weights of the tokens; a weight of 0 where the target is ignored.
template <class A>
struct Tokens {
  Tokens(const CrossEntropy::In<Tensor>& in, const Attrs& a) : targets(in.targets.contiguous()) {
    const Tensor given = in.weights.defined() ? in.weights.contiguous() : Tensor();
    const std::int64_t* t = std::as_const(targets).data<std::int64_t>();
    for (Index i = 0; i < targets.numel(); ++i) {
      const bool counts = t[i] != a.ignore_index;
      weights.push_back(!counts           ? A(0)
                        : given.defined() ? std::as_const(given).data<A>()[i]
                                          : A(1));
      total += static_cast<double>(weights.back());
    }
  }
  Index target(Index i) const { return targets.data<std::int64_t>()[i]; }
  /// What the sum over tokens is multiplied by.
  double share(const Attrs& a) const {
    return a.reduction != Reduction::kMean ? 1.0 : total > 0 ? 1.0 / total : 0.0;
  }

  const Tensor targets;
  std::vector<A> weights;
  double total = 0;
};

template <class A>
struct Scores {
  A top, sum, mean_below;  // mean_below: mean of top - x
};

/// x[c] = capped scores; p[c] = exp(x[c] - top).
template <class T, class A>
Scores<A> scores(const T* logits, Index classes, const Attrs& a, A* x, A* p) {
  const A scale = static_cast<A>(a.logit_scale);
  for (Index c = 0; c < classes; ++c) {
    x[c] = scale * convert<A>(logits[c]);
  }
  if (a.softcap > 0) {
    const A cap = static_cast<A>(a.softcap), inverse = static_cast<A>(1 / a.softcap);
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
  return {top, sum, below / static_cast<A>(classes)};
}

template <class T>
struct CrossEntropyRows {
  using A = acc_t<T>;

  static void forward(const CrossEntropy::In<Tensor>& in, CrossEntropy::Out<Tensor>& out,
                      const Attrs& a) {
    const Rows logits(in.logits);
    const Tokens<A> tokens(in, a);
    const Index classes = logits.cols;
    const A smooth = static_cast<A>(a.label_smoothing), z = static_cast<A>(a.z_loss);
    std::vector<A> losses(tokens.weights.size());
    A* lse = out.lse.data<A>();
    parallel_for(logits.count, grain(classes), [&](Index r0, Index r1) {
      std::vector<A> buffer(static_cast<std::size_t>(2 * classes));
      A* x = buffer.data();
      for (Index r = r0; r < r1; ++r) {
        const auto [top, sum, mean_below] = scores(logits.row<T>(r), classes, a, x, x + classes);
        const A log_sum = std::log(sum), weight = tokens.weights[static_cast<std::size_t>(r)];
        lse[r] = top + log_sum;
        A& loss = losses[static_cast<std::size_t>(r)];
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
      total += static_cast<double>(loss);
    }
    *out.loss.data<A>() = static_cast<A>(total * tokens.share(a));
  }

  static void backward(const CrossEntropy::In<Tensor>& in, const CrossEntropy::Out<Tensor>&,
                       const CrossEntropy::Out<Tensor>& dout, CrossEntropy::In<Tensor>& din,
                       const Attrs& a) {
    const Rows logits(in.logits);
    const Tokens<A> tokens(in, a);
    const Index classes = logits.cols;
    const A smooth = static_cast<A>(a.label_smoothing), z = static_cast<A>(a.z_loss);
    const A scale = static_cast<A>(a.logit_scale), share = static_cast<A>(tokens.share(a));
    const auto packed = [](const Tensor& t) { return t.defined() ? t.contiguous() : Tensor(); };
    const Tensor dloss = packed(dout.loss), dlosses = packed(dout.losses), dlse = packed(dout.lse);
    T* dx = din.logits.data<T>();
    parallel_for(logits.count, grain(classes), [&](Index r0, Index r1) {
      std::vector<A> buffer(static_cast<std::size_t>(2 * classes));
      A* x = buffer.data();
      A* p = x + classes;
      for (Index r = r0; r < r1; ++r) {
        const auto [top, sum, mean_below] = scores(logits.row<T>(r), classes, a, x, p);
        const Index target = tokens.target(r);
        A seed = dloss.defined()     ? dloss.data<A>()[0]
                 : dlosses.defined() ? dlosses.data<A>()[r]
                                     : A(0);
        seed *= tokens.weights[static_cast<std::size_t>(r)] * share;
        A spread = seed * (1 + 2 * z * (top + std::log(sum)));
        if (target == a.ignore_index) {
          seed = spread = 0;
        }
        spread = (spread + (dlse.defined() ? dlse.data<A>()[r] : A(0))) / sum;
        const A even = seed * smooth / static_cast<A>(classes);
        for (Index c = 0; c < classes; ++c) {
          p[c] = p[c] * spread - even;
        }
        if (target != a.ignore_index) {
          p[target] -= (1 - smooth) * seed;
        }
        if (a.softcap > 0) {
          const A inverse = static_cast<A>(1 / a.softcap);
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
};

LS_KERNEL(CrossEntropy).types<double, float, bf16>([]<class T>() {
  return std::pair(&CrossEntropyRows<T>::forward, &CrossEntropyRows<T>::backward);
});

}  // namespace
}  // namespace ls::ops
