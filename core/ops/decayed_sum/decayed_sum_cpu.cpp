// S = scale sum_t (dx_t x_t) (dy_t y_t)^T. A task is one head of S of one row. Tokens come in
// blocks of n, in the order of the sums of their decays, f64; neighbouring heads of a task take a
// block in turn, so that memory is read in its order:
//   x [n,K]  y [n,V]   a pair's tokens times their decays, or where they lie
//   part [K,V]         sums of kMostSums blocks, which are added to S: S is rounded so often only
#include <algorithm>
#include <vector>

#include "core/backend/cpu/simd_math.h"
#include "core/backend/cpu/small_gemm.h"
#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/sequences.h"
#include "core/ops/decayed_sum/pairs.h"

namespace ls::ops {
namespace {

using Op = DecayedSum;

constexpr Index kBlock = 64, kMostSums = 32;

/// The tokens of x or y, and their decays.
template <class T>
class Side {
  using A = acc_t<T>;

 public:
  struct Rows {
    const A* at;
    Index ld;
  };
  Side(const TensorView& tokens, const TensorView& g, const TensorView& by_channel, Index pairs,
       DecaySpan span)
      : x_(tokens),
        g_(g),
        channels_(by_channel),
        x_each_(pairs / tokens.size(2)),
        g_each_(g.defined() ? pairs / g.size(2) : 1),
        channels_each_(by_channel.defined() ? pairs / by_channel.size(2) : 1),
        d_(tokens.size(3)),
        step_(tokens.stride(1)),
        span_(span),
        sums_(static_cast<std::size_t>(by_channel.defined() ? pairs * d_ : 0)),
        shared_(static_cast<std::size_t>(pairs)),
        rows_(static_cast<std::size_t>(kBlock * d_)),
        logs_(
            static_cast<std::size_t>(kBlock * std::max<Index>(1, by_channel.defined() ? d_ : 1))) {}
  void restart() {
    std::fill(sums_.begin(), sums_.end(), 0.0);
    std::fill(shared_.begin(), shared_.end(), 0.0);
  }
  /// What the decays of all tokens of a pair leave, once its blocks are done.
  void total(Index p, A* to) const {
    if (!channels_.defined()) {
      *to = simd::exp(static_cast<A>(shared_[static_cast<std::size_t>(p)]));
      return;
    }
    for (Index c = 0; c < d_; ++c) {
      to[c] = simd::exp(static_cast<A>(sums_[static_cast<std::size_t>(p * d_ + c)]));
    }
  }
  /// Tokens [t, t + n) of pair p, n <= kBlock. The blocks of a pair come in the order of the span.
  Rows block(Index b, Index t, Index n, Index p) {
    if constexpr (std::is_same_v<T, A>) {
      if (!g_.defined() && !channels_.defined() && step_ >= d_) {
        fetch(x_, b, t, n, p / x_each_);
        return {x_.at(b, t, p / x_each_), step_};
      }
    }
    fetch(x_, b, t, n, p / x_each_);
    if (channels_.defined()) {
      fetch(channels_, b, t, n, p / channels_each_);
      sum_channels(b, t, n, p);
    } else {
      sum_heads(b, t, n, p);
    }
    const Index width = channels_.defined() ? d_ : 1;
    A* __restrict const log = logs_.data();
    const Index count = n * width;
    for (Index i = 0; i < count; ++i) {
      log[i] = simd::exp(log[i]);
    }
    const Index d = d_;
    for (Index i = 0; i < n; ++i) {
      const T* __restrict const x = x_.at(b, t + i, p / x_each_);
      A* __restrict const to = rows_.data() + i * d;
      if (width == 1) {
        const A factor = log[i];
        for (Index c = 0; c < d; ++c) {
          to[c] = factor * convert<A>(x[c]);
        }
      } else {
        const A* __restrict const factor = log + i * d;
        for (Index c = 0; c < d; ++c) {
          to[c] = factor[c] * convert<A>(x[c]);
        }
      }
    }
    return {rows_.data(), d_};
  }

 private:
  /// Asks for the rows of the block behind this one to be in cache soon.
  template <class Tokens>
  void fetch(const Tokens& of, Index b, Index t, Index n, Index h) const {
    const Index next = span_ == DecaySpan::kBehind ? t - n : t + n;
    for (Index i = 0; i < n; ++i) {
      of.prefetch(b, next + i, h, d_);
    }
  }
  /// f(i) for the tokens of a block, in the order of the span.
  template <class F>
  void in_order(Index n, F&& f) const {
    for (Index j = 0; j < n; ++j) {
      f(span_ == DecaySpan::kBehind ? n - 1 - j : j);
    }
  }
  /// logs [n]
  void sum_heads(Index b, Index t, Index n, Index p) {
    double sum = shared_[static_cast<std::size_t>(p)];
    in_order(n, [&](Index i) {
      const double next = sum + own(b, t + i, p);
      logs_[static_cast<std::size_t>(i)] = static_cast<A>(span_ == DecaySpan::kUpTo ? next : sum);
      sum = next;
    });
    shared_[static_cast<std::size_t>(p)] = sum;
  }
  /// logs [n,d]
  void sum_channels(Index b, Index t, Index n, Index p) {
    double* __restrict const sum = sums_.data() + p * d_;
    const Index d = d_;
    in_order(n, [&](Index i) {
      const A* __restrict const g = channels_.at(b, t + i, p / channels_each_);
      A* __restrict const log = logs_.data() + i * d;
      const double shared = own(b, t + i, p);
      if (span_ == DecaySpan::kUpTo) {
        for (Index c = 0; c < d; ++c) {
          sum[c] += static_cast<double>(g[c]) + shared;
          log[c] = static_cast<A>(sum[c]);
        }
      } else {
        for (Index c = 0; c < d; ++c) {
          log[c] = static_cast<A>(sum[c]);
          sum[c] += static_cast<double>(g[c]) + shared;
        }
      }
    });
  }
  double own(Index b, Index t, Index p) const {
    return g_.defined() ? static_cast<double>(*g_.at(b, t, p / g_each_)) : 0.0;
  }

  common::Operand<T> x_;
  common::Operand<A> g_, channels_;
  Index x_each_, g_each_, channels_each_, d_, step_;
  DecaySpan span_;
  std::vector<double> sums_, shared_;  // by pair: of channels, and of heads
  std::vector<A> rows_, logs_;
};

/// One thread's heads of S.
template <class T>
class Sums {
  using A = acc_t<T>;

 public:
  Sums(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a)
      : pairs_(decayed_sum::pairs(in, a)),
        x_(in.x, in.g, in.gk, pairs_, a.span),
        y_(in.y, {}, in.gv, pairs_, a.span),
        s_(out.s.data<A>()),
        left_(common::elements<A>(out.left)),
        left_y_(common::elements<A>(out.left_y)),
        left_size_(left_ ? out.left.size(2) : 0),
        tokens_(in.x.size(1)),
        heads_(a.heads),
        k_(in.x.size(3)),
        v_(in.y.size(3)),
        from_the_end_(a.span == DecaySpan::kBehind),
        scale_(static_cast<A>(a.scale)) {}
  /// Heads [begin, end) of all rows, counted on.
  void run(Index begin, Index end) {
    for (Index first = begin; first < end;) {
      const Index b = first / heads_, last = std::min(end, (b + 1) * heads_);
      heads_of(b, first - b * heads_, last - b * heads_);
      first = last;
    }
  }

 private:
  void heads_of(Index b, Index first, Index last) {
    x_.restart();
    y_.restart();
    const Index size = k_ * v_, each = pairs_ / heads_, blocks = common::pieces(tokens_, kBlock);
    A* const all = s_ + (b * heads_ + first) * size;
    std::fill(all, all + (last - first) * size, A(0));
    parts_.resize(static_cast<std::size_t>((last - first) * size));
    for (Index i = 0; i < blocks; ++i) {
      const Index t = (from_the_end_ ? blocks - 1 - i : i) * kBlock;
      const bool fresh = i % kMostSums == 0, full = (i + 1) % kMostSums == 0 || i + 1 == blocks;
      for (Index p = first * each; p < last * each; ++p) {
        A* __restrict const part = parts_.data() + (p / each - first) * size;
        const Index n = std::min(kBlock, tokens_ - t);
        const auto x = x_.block(b, t, n, p), y = y_.block(b, t, n, p);
        small_gemm<true, false, A>(k_, v_, n, scale_, x.at, x.ld, y.at, y.ld,
                                   fresh && p % each == 0 ? A(0) : A(1), part, v_);
        if (full && (p + 1) % each == 0) {
          A* __restrict const to = all + (p / each - first) * size;
          for (Index j = 0; j < size; ++j) {
            to[j] += part[j];
          }
        }
      }
    }
    for (Index p = first; p < last && left_; ++p) {
      x_.total(p, left_ + (b * heads_ + p) * left_size_);
      if (left_y_) {
        y_.total(p, left_y_ + (b * heads_ + p) * v_);
      }
    }
  }

  Index pairs_;
  Side<T> x_, y_;
  A *s_, *left_, *left_y_;
  Index left_size_, tokens_, heads_, k_, v_;
  bool from_the_end_;
  A scale_;
  std::vector<A> parts_;
};

template <class T>
struct Kernel {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    if (out.s.size(0) * a.heads == 0) {
      return;
    }
    const Index tasks = out.s.size(0) * a.heads;
    const Index work = in.x.size(1) * decayed_sum::pairs(in, a) / a.heads * out.s.size(2);
    parallel_for(tasks, row_grain(work * out.s.size(3), 1 << 17),
                 [&](Index begin, Index end) { Sums<T>(in, out, a).run(begin, end); });
  }
  static void backward(const Op::In<TensorView>&, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>&, Op::In<TensorView>&, const Op::Attrs&) {}
};

LS_KERNEL(DecayedSum)
    .reads("x y gk gv", lies::heads)
    .reads("g", lies::anyhow)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
