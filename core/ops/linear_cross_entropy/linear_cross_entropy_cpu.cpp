// Logits are held for a block of tokens at a time. What is kept of them is E = e^(logit - top) with
// z, its sum over the classes, taken from the target's: the gradient of a logit is E / (z count).
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/backend/cpu/gemm.h"
#include "core/backend/cpu/parallel_for.h"
#include "core/backend/cpu/simd_math.h"
#include "core/backend/cpu/small_gemm.h"
#include "core/ops/linear_cross_entropy/linear_cross_entropy.h"

namespace ls {
namespace {

using Op = LinearCrossEntropy;

template <class T>
struct Call {
  Tensor x, w, targets;
  Index tokens, width, classes;
  std::int64_t ignored;
  const std::int64_t* target;
  float share;  // of a token in the mean
  float* loss;
  std::int64_t* predicted;
  Call(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a)
      : x(in.x.contiguous()),
        w(in.weight.contiguous()),
        targets(in.targets.contiguous()),
        tokens(x.size(0)),
        width(x.size(1)),
        classes(w.size(0)),
        ignored(a.ignore_index),
        target(std::as_const(targets).data<std::int64_t>()),
        loss(out.per_token.data<float>()),
        predicted(out.predicted.data<std::int64_t>()) {
    const auto count = tokens - std::count(target, target + tokens, ignored);
    share = count > 0 ? 1.0f / static_cast<float>(count) : 0.0f;
  }
  const T* row(Index token) const { return std::as_const(x).template data<T>() + token * width; }
  const T* weight(Index c = 0) const { return std::as_const(w).template data<T>() + c * width; }

  /// Logits of a token become E, without the target's z; its loss and prediction are written.
  /// Returns z.
  float exponentials(Index token, float* __restrict row) const {
    float top = row[0];
#pragma omp simd reduction(max : top)
    for (Index c = 0; c < classes; ++c) {
      top = row[c] > top ? row[c] : top;
    }
    const auto count = static_cast<std::int32_t>(classes);
    std::int32_t best = count;
#pragma omp simd reduction(min : best)
    for (std::int32_t c = 0; c < count; ++c) {
      best = row[c] == top && c < best ? c : best;
    }
    best = std::min(best, count - 1);  // where the top is NaN; the loss shows it
    predicted[token] = best;
    const bool asked = target[token] != ignored;
    const float at_target = asked ? row[target[token]] : 0.0f;
    float z = 0;
#pragma omp simd reduction(+ : z)
    for (Index c = 0; c < classes; ++c) {
      const float t = row[c] - top, e = simd::detail::exp_normal(t);
      row[c] = t == t ? e : t;  // a NaN stays one
      z += row[c];
    }
    loss[token] = asked ? top + std::log(z) - at_target : 0.0f;
    if (asked) {
      row[target[token]] -= z;
    }
    return z;
  }
  float factor(Index token, float z) const {
    return target[token] == ignored ? 0.0f : share / z;
  }
  void mean(Op::Out<Tensor>& out) const {
    double total = 0;
    for (Index i = 0; i < tokens; ++i) {
      total += static_cast<double>(loss[i]);
    }
    out.loss.data<float>()[0] = static_cast<float>(total * static_cast<double>(share));
  }
};

constexpr Index kLogits = 1 << 21;  // of a block, about

/// Whole blocks, their products by the library: 16 bits, where E is rounded with its factor, and
/// few classes.
template <class T>
void forward_blocks(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
  const Call<T> call(in, out, a);
  const Index n = call.tokens, d = call.width, v = call.classes;
  const Index block = std::min(n, std::clamp<Index>(kLogits / std::max<Index>(1, v), 64, n));
  Tensor logits = Tensor::empty({block, v}, DType::kF32), gradients;
  if (a.gradients) {
    gradients = std::is_same_v<T, float> ? logits : Tensor::empty({block, v}, dtype_of_v<T>);
  }
  float* const l = logits.data<float>();
  T* const g = a.gradients ? gradients.data<T>() : nullptr;
  for (Index b = 0; b < n; b += block) {
    const Index m = std::min(block, n - b);
    gemm<T, float>(false, true, m, v, d, 1.0, call.row(b), d, call.weight(), d, 0.0, l, v);
    parallel_for(m, std::max<Index>(1, 4096 / std::max<Index>(1, v)), [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        const float factor = call.factor(b + r, call.exponentials(b + r, l + r * v));
        for (Index c = 0; c < v && g; ++c) {
          g[r * v + c] = convert<T>(factor * l[r * v + c]);
        }
      }
    });
    if (a.gradients) {
      gemm<T>(false, false, m, d, v, 1.0, g, v, call.weight(), d, 0.0, out.dx.data<T>() + b * d, d);
      gemm<T, float>(true, false, v, d, m, 1.0, g, v, call.row(b), d, b == 0 ? 0.0 : 1.0,
                     out.dw.data<float>(), d);
    }
  }
  if (n == 0 && a.gradients) {
    out.dw.zero_();
  }
  call.mean(out);
}

/// Full tiles of 64 classes of W, transposed: [classes / 64, width, 64].
constexpr Index kTile = 64;
Tensor tiles_of(const Call<float>& call) {
  const Index tiles = call.classes / kTile, d = call.width;
  Tensor out = Tensor::empty({tiles, d, kTile}, DType::kF32);
  float* const to = out.data<float>();
  parallel_for(tiles, std::max<Index>(1, 16384 / (kTile * std::max<Index>(1, d))),
               [&](Index first, Index last) {
                 for (Index t = first; t < last; ++t) {
                   for (Index c = 0; c < kTile; ++c) {
                     const float* __restrict from = call.weight(t * kTile + c);
                     float* __restrict column = to + t * d * kTile + c;
                     for (Index k = 0; k < d; ++k) {
                       column[k * kTile] = from[k];
                     }
                   }
                 }
               });
  return out;
}

/// A thread takes a few tokens from their logits to their dx while the logits are in its cache;
/// then the threads share out dw by classes. The factor 1 / (z count) of a token goes into its row
/// of dx and, for dw = E^T X, of X.
void forward_tokens(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
  const Call<float> call(in, out, a);
  const Index n = call.tokens, d = call.width, v = call.classes;
  const Index block = std::min(n, std::clamp<Index>(kLogits / v, 64, 1024));
  // Rows a multiple of a page apart would share their cache sets.
  const Index stride = (v + 15) / 16 * 16 + 16;
  constexpr Index kTokens = 16;  // of one thread's pass
  const Tensor tiles = tiles_of(call);
  const float* const tile = tiles.data<float>();
  Tensor logits = Tensor::empty({block, stride}, DType::kF32);
  Tensor scaled = a.gradients ? Tensor::empty({block, d}, DType::kF32) : Tensor();
  float* const l = logits.data<float>();
  float* const xs = a.gradients ? scaled.data<float>() : nullptr;
  float* const dx = a.gradients ? out.dx.data<float>() : nullptr;
  float* const dw = a.gradients ? out.dw.data<float>() : nullptr;
  const auto pass = [&](Index b, Index first, Index m) {  // tokens b + first, m of them
    const Index token = b + first;
    float* const e = l + first * stride;
    for (Index t = 0; t < v / kTile; ++t) {
      small_gemm<false, false, float>(m, kTile, d, 1.0f, call.row(token), d, tile + t * d * kTile,
                                      kTile, 0.0f, e + t * kTile, stride);
    }
    const Index rest = v / kTile * kTile;
    small_gemm<false, true, float>(m, v - rest, d, 1.0f, call.row(token), d, call.weight(rest), d,
                                   0.0f, e + rest, stride);
    float factor[kTokens];
    for (Index i = 0; i < m; ++i) {
      factor[i] = call.factor(token + i, call.exponentials(token + i, e + i * stride));
    }
    if (!a.gradients) {
      return;
    }
    small_gemm<false, false, float>(m, d, v, 1.0f, e, stride, call.weight(), d, 0.0f,
                                    dx + token * d, d);
    for (Index i = 0; i < m; ++i) {
      const float* __restrict from = call.row(token + i);
      float* __restrict gradient = dx + (token + i) * d;
      float* __restrict to = xs + (first + i) * d;
      for (Index k = 0; k < d; ++k) {
        gradient[k] *= factor[i];
        to[k] = factor[i] * from[k];
      }
    }
  };
  for (Index b = 0; b < n; b += block) {
    const Index m = std::min(block, n - b);
    const Index work = std::max<Index>(1, v * d);
    parallel_for(m, std::max<Index>(1, (Index{1} << 17) / work), [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; r += kTokens) {
        pass(b, r, std::min(kTokens, r1 - r));
      }
    });
    if (a.gradients) {
      parallel_for(v, std::max<Index>(16, (Index{1} << 17) / std::max<Index>(1, m * d)),
                   [&](Index c0, Index c1) {
                     small_gemm<true, false, float>(c1 - c0, d, m, 1.0f, l + c0, stride, xs, d,
                                                    b == 0 ? 0.0f : 1.0f, dw + c0 * d, d);
                   });
    }
  }
  if (n == 0 && a.gradients) {
    out.dw.zero_();
  }
  call.mean(out);
}

void forward_f32(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
  constexpr Index kMany = 1024;  // classes
  in.weight.size(0) < kMany ? forward_blocks<float>(in, out, a) : forward_tokens(in, out, a);
}

void backward(const Op::In<Tensor>&, const Op::Out<Tensor>& out, const Op::Out<Tensor>& dout,
              Op::In<Tensor>& din, const Op::Attrs& a) {
  LS_CHECK(a.gradients, kInternal, "linear_cross_entropy ran without gradients");
  const double s = dout.loss.defined() ? dout.loss.item() : 0.0;
  const auto scaled = [s](Tensor& to, const Tensor& from) {
    if (to.defined()) {
      to.copy_(from);
      to.mul_(s);
    }
  };
  scaled(din.x, out.dx);
  scaled(din.weight, out.dw);
}

LS_KERNEL(LinearCrossEntropy)
    .forward<float>(&forward_f32)
    .backward<float>(&backward)
    .forward<bf16>(&forward_blocks<bf16>)
    .backward<bf16>(&backward);

}  // namespace
}  // namespace ls
