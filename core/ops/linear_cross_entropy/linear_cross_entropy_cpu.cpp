// Loss and gradients of softmax(x W^T) in one pass; logits are held for a block of tokens at a
// time. What is kept of them is E = e^(logit - top) without the target's: the gradient of a logit
// is E / z, and of the target's logit p - 1 = - others / z, with `others` the sum of E and z with
// the target's. Formed so, and the loss as log1p(others), nothing is lost where p is near 1
// (NOTES.md). Ignored tokens are left out before anything else. Two ways:
//   forward_blocks  logits [block,V] by library products; rows are shared out over threads
//   ByClasses       f32 and 1024 classes or more: 4 pieces of classes of a block of tokens,
//     tiles_    [V/64,D,64]          W, transposed by tiles
//     logits_   [4,block,stride]     a piece's logits, then E
//     dx_parts_ [4,block,D]          a piece's part of dx
//     parts_ [4,block], tokens_ [block]   tops and sums of pieces; factors of tokens
//     threads take (piece, 32 tokens), then tokens, then tiles of classes of dW
// Memory moved per block: x, W and dW once (W again for dx by blocks), the block's logits from
// cache.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "core/backend/cpu/gemm.h"
#include "core/backend/cpu/simd_math.h"
#include "core/backend/cpu/small_gemm.h"
#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/elements.h"
#include "core/ops/common/indices.h"
#include "core/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "core/tensor/tensor.h"
#include "core/tensor/view.h"

namespace ls::ops {
namespace {

using Op = LinearCrossEntropy;

/// Logits become e^(logit - top); returns their sum.
inline float exponentials_of_row(float* __restrict row, Index classes, float top) {
  float z = 0;
#pragma omp simd reduction(+ : z)
  for (Index c = 0; c < classes; ++c) {
    const float t = row[c] - top, e = simd::detail::exp_normal(t);
    row[c] = t == t ? e : t;  // a NaN stays one
    z += row[c];
  }
  return z;
}

template <class T>
struct Call {
  const T *x, *w;
  Index tokens, width, classes;
  const std::int64_t* target;
  float* loss;
  std::int64_t* predicted;
  Call(const Op::In<TensorView>& in, Op::Out<TensorView>& out)
      : x(in.x.template data<T>()),
        w(in.weight.template data<T>()),
        tokens(in.x.size(0)),
        width(in.x.size(1)),
        classes(in.weight.size(0)),
        target(in.targets.data<std::int64_t>()),
        loss(out.per_token.data<float>()),
        predicted(out.predicted.data<std::int64_t>()) {}
  const T* row(Index token) const { return x + token * width; }
  const T* weight(Index c = 0) const { return w + c * width; }

  /// The largest of a row of logits, and its first place in `best`.
  float top_of(const float* __restrict row, std::int64_t& best) const {
    float top = row[0];
#pragma omp simd reduction(max : top)
    for (Index c = 0; c < classes; ++c) {
      top = row[c] > top ? row[c] : top;
    }
    const auto count = std::int32_t(classes);
    std::int32_t first = count;
#pragma omp simd reduction(min : first)
    for (std::int32_t c = 0; c < count; ++c) {
      first = row[c] == top && c < first ? c : first;
    }
    best = std::min(first, count - 1);  // where the top is NaN; the loss shows it
    return top;
  }

  /// Writes the loss of a token from its largest logit, its target's and `others`, the sum of
  /// e^(logit - top) over the other classes; returns 1 / z.
  float finish(Index token, float top, float at_target, float others) const {
    const float z = others + std::exp(at_target - top);
    loss[token] = at_target == top ? std::log1p(others) : top - at_target + std::log(z);
    return 1.0f / z;
  }
  void sum(Op::Out<TensorView>& out) const {
    double total = 0;
    for (Index i = 0; i < tokens; ++i) {
      total += loss[i];
    }
    out.loss.data<float>()[0] = float(total);
  }
};

constexpr Index kLogits = 1 << 21;  // of a block, about
constexpr float kNone = -std::numeric_limits<float>::infinity();

/// Whole blocks, their products by the library: 16 bits, where E is rounded with its factor, and
/// few classes.
template <class T>
void forward_blocks(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
  const Call<T> call(in, out);
  const Index n = call.tokens, d = call.width, v = call.classes;
  const Index block = std::min(n, std::max<Index>(kLogits / std::max<Index>(1, v), 64));
  Tensor logits = Tensor::empty({block, v}, DType::kF32), gradients;
  if (a.gradients) {
    gradients = std::is_same_v<T, float> ? logits : Tensor::empty({block, v}, dtype_of_v<T>);
  }
  float* const l = logits.data<float>();
  T* const g = a.gradients ? gradients.data<T>() : nullptr;
  for (Index b = 0; b < n; b += block) {
    const Index m = std::min(block, n - b);
    gemm<T, float>(false, true, m, v, d, 1.0, call.row(b), d, call.weight(), d, 0.0, l, v);
    parallel_for(m, row_grain(v, 4096), [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        float* const row = l + r * v;
        const Index token = b + r;
        const float top = call.top_of(row, call.predicted[token]);
        const Index target = call.target[token];
        const float at_target = std::exchange(row[target], kNone);
        const float others = exponentials_of_row(row, v, top);
        const float factor = call.finish(token, top, at_target, others);
        row[target] = -others;
        if (g) {
          for (Index c = 0; c < v; ++c) {
            g[r * v + c] = convert<T>(factor * row[c]);
          }
        }
      }
    });
    if (a.gradients) {
      gemm<T>(false, false, m, d, v, 1.0, g, v, call.weight(), d, 0.0, out.dx.data<T>() + b * d, d);
      gemm<T, float>(true, false, v, d, m, 1.0, g, v, call.row(b), d,
                     b == 0 && !out.dw.adds() ? 0.0 : 1.0, out.dw.data<float>(), d);
    }
  }
  if (n == 0 && a.gradients && !out.dw.adds()) {
    common::zeroed(out.dw);
  }
  call.sum(out);
}

/// Full tiles of 64 classes of W, transposed: [classes / 64, width, 64].
constexpr Index kTile = 64;
Tensor tiles_of(const Call<float>& call) {
  const Index tiles = call.classes / kTile, d = call.width;
  Tensor out = Tensor::empty({tiles, d, kTile}, DType::kF32);
  float* const to = out.data<float>();
  parallel_for(tiles, row_grain(kTile * d, 16384), [&](Index first, Index last) {
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

/// The largest logit of a token so far, lane by lane, and the tile that held it.
struct Tops {
  static constexpr Index kLanes = 16;
  float top[kLanes];
  std::int32_t tile[kLanes];
  Tops() {
    std::fill(top, top + kLanes, kNone);
    std::fill(tile, tile + kLanes, 0);
  }
  /// Tile t, 64 logits.
  void add(const float* __restrict l, std::int32_t t) {
#pragma omp simd
    for (Index i = 0; i < kLanes; ++i) {
      const float a = l[i] > l[i + 16] ? l[i] : l[i + 16];
      const float b = l[i + 32] > l[i + 48] ? l[i + 32] : l[i + 48];
      const float x = a > b ? a : b;
      tile[i] = x > top[i] ? t : tile[i];
      top[i] = x > top[i] ? x : top[i];
    }
  }
  /// Of a row of `count` logits, those from `rest` on in no tile; `best` is its first place.
  float of(const float* row, Index rest, Index count, Index& best) const {
    float largest = *std::max_element(top, top + kLanes);
    Index from = rest;
    for (Index i = 0; i < kLanes; ++i) {
      if (top[i] == largest && rest > 0) {
        from = std::min<Index>(from, tile[i] * kTile);
      }
    }
    for (Index c = rest; c < count; ++c) {
      if (row[c] > largest) {
        largest = row[c];
        from = c;
      }
    }
    const Index at = std::find(row + from, row + count, largest) - row;
    best = std::min(at, count - 1);  // a NaN; the loss shows it
    return largest;
  }
};

/// Many classes: they are cut in pieces, and a thread takes one for all tokens of a block, so that
/// it meets only its rows of W and dW and its logits. It goes from logits to E and the piece's part
/// of dx while they are in its cache; the sums over all pieces known, dW follows. E of a piece is
/// taken from its own largest logit.
class ByClasses {
 public:
  ByClasses(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a)
      : call_(in, out),
        n_(call_.tokens),
        d_(call_.width),
        v_(call_.classes),
        block_(std::min(n_, std::clamp<Index>(kLogits / v_, 64, 1024))),
        // Rows a multiple of a page apart would share their cache sets.
        stride_((v_ / kTile / kPieces + 2) * kTile + 16),
        dx_(a.gradients ? out.dx.data<float>() : nullptr),
        dw_(a.gradients ? out.dw.data<float>() : nullptr),
        adds_(out.dw.adds()),
        tiles_(tiles_of(call_)),
        logits_(Tensor::empty({kPieces, block_, stride_}, DType::kF32)),
        parts_(kPieces, block_),
        tokens_(block_) {
    if (dx_) {
      dx_parts_ = Tensor::empty({kPieces, block_, d_}, DType::kF32);
    }
  }

  void run(Op::Out<TensorView>& out) {
    const Index tiles = v_ / kTile;
    for (Index b = 0; b < n_; b += block_) {
      const Index m = std::min(block_, n_ - b), passes = (m + kTokens - 1) / kTokens;
      parallel_for(kPieces * passes, 1, [&](Index first, Index last) {
        for (Index i = first; i < last; ++i) {
          const Index from = i % passes * kTokens;
          exponentials(b, i / passes, from, std::min(kTokens, m - from));
        }
      });
      parallel_for(m, 16, [&](Index first, Index last) {
        for (Index i = first; i < last; ++i) {
          outputs(b, i);
        }
      });
      if (dx_) {
        parallel_for(tiles, 1, [&](Index first, Index last) {
          weight_gradients(b, m, first * kTile, last == tiles ? v_ : last * kTile);
        });
      }
    }
    if (n_ == 0 && dx_ && !adds_) {
      common::zeroed(out.dw);
    }
    call_.sum(out);
  }

 private:
  // Fixed, so that sums are the same for any number of threads.
  static constexpr Index kPieces = 4;
  static constexpr Index kTokens = 32;  // of a pass

  /// Of one piece and token: E's largest logit, sum, first class at the top, and weight
  /// e^(its top - the top).
  struct Part {
    float top, sum, weight;
    Index best;
  };
  /// Of one token: the target's logit, the factor 1 / z of E, and the target's gradient.
  struct Token {
    float target, factor, of_target;
  };

  Index begin(Index p) const { return v_ / kTile * p / kPieces * kTile; }
  Index end(Index p) const { return p + 1 == kPieces ? v_ : begin(p + 1); }
  float* logits(Index p, Index i) { return logits_.data<float>() + (p * block_ + i) * stride_; }
  float* dx_part(Index p, Index i) { return dx_parts_.data<float>() + (p * block_ + i) * d_; }

  /// E of piece p for m tokens from b + first on, and its part of their dx.
  void exponentials(Index b, Index p, Index first, Index m) {
    const Index c0 = begin(p), count = end(p) - c0, whole = count / kTile, rest = whole * kTile,
                token = b + first;
    const float* const tile = std::as_const(tiles_).data<float>() + c0 * d_;
    float* const e = logits(p, first);
    std::array<Tops, kTokens> tops;
    for (Index t = 0; t < whole; ++t) {
      small_gemm<false, false, float>(m, kTile, d_, 1.0f, call_.row(token), d_,
                                      tile + t * d_ * kTile, kTile, 0.0f, e + t * kTile, stride_);
      for (Index i = 0; i < m; ++i) {
        tops[i].add(e + i * stride_ + t * kTile, std::int32_t(t));
      }
    }
    small_gemm<false, true, float>(m, count - rest, d_, 1.0f, call_.row(token), d_,
                                   call_.weight(c0 + rest), d_, 0.0f, e + rest, stride_);
    for (Index i = 0; i < m; ++i) {
      float* const row = e + i * stride_;
      Part& to = parts_(p, first + i);
      to.top = tops[i].of(row, rest, count, to.best);
      to.best += c0;
      const Index target = call_.target[token + i] - c0;
      if (0 <= target && target < count) {
        tokens_(first + i).target = row[target];
        row[target] = kNone;
      }
      to.sum = exponentials_of_row(row, count, to.top == kNone ? 0.0f : to.top);
    }
    if (dx_) {
      small_gemm<false, false, float>(m, d_, count, 1.0f, e, stride_, call_.weight(c0), d_, 0.0f,
                                      dx_part(p, first), d_);
    }
  }

  /// Loss, prediction and dx of token b + i.
  void outputs(Index b, Index i) {
    float top = kNone, others = 0;
    Index best = parts_(0, i).best;
    for (Index p = 0; p < kPieces; ++p) {
      if (parts_(p, i).top > top) {
        top = parts_(p, i).top;
        best = parts_(p, i).best;
      }
    }
    for (Index p = 0; p < kPieces; ++p) {
      parts_(p, i).weight = simd::exp(parts_(p, i).top - top);
      others += parts_(p, i).weight * parts_(p, i).sum;
    }
    const Index token = b + i;
    call_.predicted[token] = best;
    Token& t = tokens_(i);
    t.factor = call_.finish(token, top, t.target, others);
    t.of_target = -t.factor * others;
    if (!dx_) {
      return;
    }
    float* const to = dx_ + token * d_;
    std::fill(to, to + d_, 0.0f);
    for (Index p = 0; p < kPieces; ++p) {
      add_row(t.factor * parts_(p, i).weight, dx_part(p, i), to);
    }
    add_row(t.of_target, call_.weight(call_.target[token]), to);
  }

  /// Adds the block's tokens to dW of classes [c0, c1).
  void weight_gradients(Index b, Index m, Index c0, Index c1) {
    Buffer<float, 2> scaled(m, d_);
    for (Index p = 0; p < kPieces; ++p) {
      const Index from = std::max(c0, begin(p)), to = std::min(c1, end(p));
      if (from >= to) {
        continue;
      }
      for (Index i = 0; i < m; ++i) {
        const float f = tokens_(i).factor * parts_(p, i).weight;
        const float* __restrict const x = call_.row(b + i);
        float* __restrict const row = scaled.data() + i * d_;
        for (Index k = 0; k < d_; ++k) {
          row[k] = f * x[k];
        }
      }
      small_gemm<true, false, float>(to - from, d_, m, 1.0f, logits(p, 0) + from - begin(p),
                                     stride_, scaled.data(), d_, b == 0 && !adds_ ? 0.0f : 1.0f,
                                     dw_ + from * d_, d_);
    }
    for (Index i = 0; i < m; ++i) {
      const Index target = call_.target[b + i];
      if (c0 <= target && target < c1) {
        add_row(tokens_(i).of_target, call_.row(b + i), dw_ + target * d_);
      }
    }
  }
  void add_row(float f, const float* __restrict from, float* __restrict to) const {
    for (Index k = 0; k < d_; ++k) {
      to[k] += f * from[k];
    }
  }

  Call<float> call_;
  Index n_, d_, v_, block_, stride_;
  float *dx_, *dw_;
  bool adds_;  // to dW
  Tensor tiles_, logits_, dx_parts_;
  Buffer<Part, 2> parts_;
  Buffer<Token> tokens_;
};

template <class T>
void forward_dense(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
  if constexpr (std::is_same_v<T, float>) {
    constexpr Index kMany = 1024;  // classes
    if (in.weight.size(0) >= kMany) {
      ByClasses(in, out, a).run(out);
      return;
    }
  }
  forward_blocks<T>(in, out, a);
}

/// Tokens with a target, and only they, next to one another.
template <class T>
void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
  const Index n = in.targets.numel(), d = in.x.size(1);
  if (!check_indices("linear_cross_entropy", "targets", in.targets, 0, in.weight.size(0),
                     a.ignore_index)) {
    return leave_zero(out);
  }
  const std::int64_t* const target = in.targets.data<std::int64_t>();
  std::vector<Index> asked;
  for (Index i = 0; i < n; ++i) {
    if (target[i] != a.ignore_index) {
      asked.push_back(i);
    }
  }
  const Index m = std::ssize(asked);
  if (m == n) {
    forward_dense<T>(in, out, a);
    return;
  }
  const Op::In<Tensor> some{.x = Tensor::empty({m, d}, dtype_of_v<T>),
                            .weight = {},
                            .targets = Tensor::empty({m}, DType::kI64)};
  const Op::Out<Tensor> of_some{.loss = {},
                                .per_token = Tensor::empty({m}, out.per_token.dtype()),
                                .predicted = Tensor::empty({m}, DType::kI64),
                                .dx = a.gradients ? Tensor::empty({m, d}, dtype_of_v<T>) : Tensor(),
                                .dw = {}};
  Op::In<TensorView> dense{.x = some.x, .weight = in.weight, .targets = some.targets};
  Op::Out<TensorView> of_dense{.loss = out.loss,
                               .per_token = of_some.per_token,
                               .predicted = of_some.predicted,
                               .dx = of_some.dx,
                               .dw = out.dw};
  const auto rows = [&](auto&& copy) {
    parallel_for(m, row_grain(d, 16384), [&](Index first, Index last) {
      for (Index i = first; i < last; ++i) {
        copy(i, asked[i]);
      }
    });
  };
  const T* const from = in.x.data<T>();
  T* const gathered = dense.x.data<T>();
  std::int64_t* const their_target = dense.targets.data<std::int64_t>();
  rows([&](Index i, Index token) {
    std::copy_n(from + token * d, d, gathered + i * d);
    their_target[i] = target[token];
  });
  forward_dense<T>(dense, of_dense, a);
  float* const loss = out.per_token.data<float>();
  std::int64_t* const predicted = out.predicted.data<std::int64_t>();
  T* const dx = common::elements<T>(out.dx);
  std::fill_n(loss, n, 0.0f);
  std::fill_n(predicted, n, a.ignore_index);
  if (dx) {
    common::zeroed(out.dx);
  }
  const float* const their_loss = of_dense.per_token.data<float>();
  const std::int64_t* const their_predicted = of_dense.predicted.data<std::int64_t>();
  const T* const their_dx = common::elements<T>(of_dense.dx);
  rows([&](Index i, Index token) {
    loss[token] = their_loss[i];
    predicted[token] = their_predicted[i];
    if (dx) {
      std::copy_n(their_dx + i * d, d, dx + token * d);
    }
  });
}

template <class T>
void backward(const Op::In<TensorView>&, const Op::Out<TensorView>& out,
              const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs& a) {
  LS_CHECK(a.gradients, kInternal, "linear_cross_entropy ran without gradients");
  const float s = dout.loss.defined() ? *dout.loss.data<float>() : 0.0f;
  LS_CHECK(out.dw.defined() || s == 1, kInternal,
           "linear_cross_entropy: the gradient of the weight was put in its place for a gradient 1 "
           "of the loss, which is {}",
           s);
  const auto scaled = [s]<class E>(TensorView& to, const TensorView& from, E) {
    if (!to.defined()) {
      return;
    }
    E* __restrict const y = to.data<E>();
    const E* __restrict const x = from.data<E>();
    parallel_for(from.numel(), 1 << 15, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        y[i] = convert<E>(convert<float>(x[i]) * s);
      }
    });
  };
  scaled(din.x, out.dx, T());
  scaled(din.weight, out.dw, float());
}

LS_KERNEL(LinearCrossEntropy).adds_grad("dw").types<float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
