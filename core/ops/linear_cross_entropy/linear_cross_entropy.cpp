#include "core/ops/linear_cross_entropy/linear_cross_entropy.h"

#include <cmath>
#include <vector>

#include "core/backend/cpu/gemm.h"
#include "core/backend/cpu/parallel_for.h"
#include "core/backend/cpu/simd_math.h"

namespace ls {
namespace {

using Op = LinearCrossEntropy;

void bind(const Op::In<Tensor>&, const Op::Attrs& a, Bindings& b) {
  if (!a.gradients) {
    b.drop_output("dx");
    b.drop_output("dw");
  }
}

Index check_targets(const Tensor& targets, Index classes, Index ignore) {
  const std::int64_t* t = targets.data<std::int64_t>();
  Index count = 0;
  for (Index i = 0; i < targets.numel(); ++i) {
    LS_CHECK(t[i] == ignore || (t[i] >= 0 && t[i] < classes), kShape,
             "linear_cross_entropy: target {} at position {}, there are {} classes", t[i], i,
             classes);
    count += t[i] != ignore;
  }
  return count;
}

/// Plain loops, one token at a time.
template <class Real>
struct Reference {
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    const Tensor x = in.x.contiguous(), w = in.weight.contiguous(),
                 targets = in.targets.contiguous();
    const Index n = x.size(0), d = x.size(1), v = w.size(0);
    const Index count = check_targets(targets, v, a.ignore_index);
    const std::int64_t* t = targets.data<std::int64_t>();
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
      out.predicted.data<std::int64_t>()[i] = best;
      const Real top = logit[static_cast<std::size_t>(best)];
      Real z = 0;
      for (const Real l : logit) {
        z += std::exp(l - top);
      }
      const bool asked = t[i] != a.ignore_index;
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

/// Tokens of a block: about 2^21 logits, so that a block stays in the caches.
Index block_tokens(Index n, Index v) {
  return std::clamp<Index>((Index{1} << 21) / std::max<Index>(1, v), 64, std::max<Index>(64, n));
}

template <class T>
void kernel_forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
  const Tensor x = in.x.contiguous(), w = in.weight.contiguous(), targets = in.targets.contiguous();
  const Index n = x.size(0), d = x.size(1), v = w.size(0);
  const Index count = check_targets(targets, v, a.ignore_index);
  const std::int64_t* t = targets.data<std::int64_t>();
  const float share = count > 0 ? 1.0f / static_cast<float>(count) : 0.0f;
  float* loss = out.per_token.data<float>();
  std::int64_t* predicted = out.predicted.data<std::int64_t>();
  const Index block = std::min(n, block_tokens(n, v));
  Tensor logits = Tensor::empty({block, v}, DType::kF32);
  Tensor narrow = std::is_same_v<T, float> || !a.gradients
                      ? Tensor()
                      : Tensor::empty({block, v}, dtype_of_v<T>);
  float* l = logits.data<float>();
  for (Index b = 0; b < n; b += block) {
    const Index m = std::min(block, n - b);
    gemm<T, float>(false, true, m, v, d, 1.0, x.data<T>() + b * d, d, w.data<T>(), d, 0.0, l, v);
    parallel_for(m, std::max<Index>(1, 4096 / std::max<Index>(1, v)), [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        float* __restrict row = l + r * v;
        float top = row[0];
#pragma omp simd reduction(max : top)
        for (Index c = 0; c < v; ++c) {
          top = row[c] > top ? row[c] : top;
        }
        Index best = v;
#pragma omp simd reduction(min : best)
        for (Index c = 0; c < v; ++c) {
          best = row[c] == top && c < best ? c : best;
        }
        best = std::min(best, v - 1);  // where the top is NaN; the loss shows it
        predicted[b + r] = best;
        const std::int64_t target = t[b + r];
        const bool asked = target != a.ignore_index;
        const float at_target = asked ? row[target] : 0.0f;
        float z = 0;
#pragma omp simd reduction(+ : z)
        for (Index c = 0; c < v; ++c) {
          row[c] = simd::exp(row[c] - top);
          z += row[c];
        }
        loss[b + r] = asked ? top + std::log(z) - at_target : 0.0f;
        if (!a.gradients) {
          continue;
        }
        const float scale = asked ? share / z : 0.0f;
        if constexpr (std::is_same_v<T, float>) {
          for (Index c = 0; c < v; ++c) {
            row[c] *= scale;
          }
          if (asked) {
            row[target] -= share;
          }
        } else {
          T* __restrict half = narrow.data<T>() + r * v;
          for (Index c = 0; c < v; ++c) {
            half[c] = convert<T>(scale * row[c]);
          }
          if (asked) {
            half[target] = convert<T>(scale * row[target] - share);
          }
        }
      }
    });
    if (a.gradients) {
      const T* g = nullptr;
      if constexpr (std::is_same_v<T, float>) {
        g = l;
      } else {
        g = std::as_const(narrow).template data<T>();
      }
      gemm<T>(false, false, m, d, v, 1.0, g, v, w.data<T>(), d, 0.0, out.dx.data<T>() + b * d, d);
      gemm<T, float>(true, false, v, d, m, 1.0, g, v, x.data<T>() + b * d, d, b == 0 ? 0.0 : 1.0,
                     out.dw.data<float>(), d);
    }
  }
  if (n == 0 && a.gradients) {
    out.dw.zero_();
  }
  double total = 0;
  for (Index i = 0; i < n; ++i) {
    total += loss[i];
  }
  out.loss.data<float>()[0] =
      count > 0 ? static_cast<float>(total / static_cast<double>(count)) : 0.0f;
}

Cost cost(const Op::In<Tensor>& in, const Op::Attrs& a) {
  const double products = (a.gradients ? 6.0 : 2.0) * static_cast<double>(in.x.numel()) *
                          static_cast<double>(in.weight.size(0));
  return {.bytes = 2.0 * static_cast<double>(in.x.bytes() + in.weight.bytes()), .flops = products};
}

LS_OP(LinearCrossEntropy, "linear_cross_entropy")
    .in("x[N,D] weight[V,D] targets[N]:i64")
    .out("loss[]:acc per_token[N]:acc predicted[N]:i64 dx[N,D]? dw[V,D]:acc?")
    .saves("dx dw")
    .no_grad("per_token dx dw")
    .grad_acc("weight")
    .bind(bind)
    .summary("cross-entropy fused with the output projection")
    .reference<Reference>()
    .cost(cost);

LS_KERNEL(LinearCrossEntropy)
    .forward<float>(&kernel_forward<float>)
    .backward<float>(&Reference<float>::backward)
    .forward<bf16>(&kernel_forward<bf16>)
    .backward<bf16>(&Reference<bf16>::backward);

}  // namespace
}  // namespace ls
