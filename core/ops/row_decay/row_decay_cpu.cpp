// y_t = scale exp(sum of g + gk over the span of t) x_t. A task is one head of one sequence, with a
// running sum of each channel in f64; operands are read and y is written once.
#include "core/ops/row_decay/row_decay.h"

#include <algorithm>
#include <vector>

#include "core/backend/cpu/simd_math.h"
#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/sequences.h"

namespace ls::ops {
namespace {

using Op = RowDecay;

/// One thread's sums.
template <class T>
class Walk {
  using A = acc_t<T>;

 public:
  /// y of tokens x, under the decays of `in`.
  Walk(const TensorView& x, const Op::In<TensorView>& in, TensorView& y, const Op::Attrs& a)
      : x_(x),
        g_(in.g),
        gk_(in.gk),
        y_(y),
        tokens_(x.size(1)),
        heads_(y.size(2)),
        d_(x.size(3)),
        x_each_(heads_ / x.size(2)),
        g_each_(heads_ / (in.gk.defined()  ? in.gk.size(2)
                          : in.g.defined() ? in.g.size(2)
                                           : heads_)),
        span_(a.span),
        scale_(static_cast<A>(a.scale)),
        sums_(static_cast<std::size_t>(heads_ * d_)),
        shared_(static_cast<std::size_t>(heads_)),
        factors_(static_cast<std::size_t>(d_)) {}
  /// Heads [begin, end) of all sequences, counted on: those of one sequence token by token, so that
  /// memory is read in its order.
  void run(Index begin, Index end) {
    for (Index first = begin; first < end;) {
      const Index b = first / heads_, last = std::min(end, (b + 1) * heads_);
      heads_of(b, first - b * heads_, last - b * heads_);
      first = last;
    }
  }

 private:
  void heads_of(Index b, Index first, Index last) {
    std::fill(sums_.begin(), sums_.end(), 0.0);
    std::fill(shared_.begin(), shared_.end(), 0.0);
    for (Index i = 0; i < tokens_; ++i) {
      const Index t = span_ == DecaySpan::kBehind ? tokens_ - 1 - i : i;
      for (Index o = first; o < last; ++o) {
        if (span_ == DecaySpan::kUpTo) {
          count(b, t, o);
          write(b, t, o);
        } else {
          write(b, t, o);
          count(b, t, o);
        }
      }
    }
  }
  void count(Index b, Index t, Index o) {
    const Index h = o / g_each_;
    if (g_.defined()) {
      shared_[static_cast<std::size_t>(o)] += static_cast<double>(*g_.at(b, t, h));
    }
    if (gk_.defined()) {
      const A* __restrict own = gk_.at(b, t, h);
      double* __restrict sum = sums_.data() + o * d_;
      const Index d = d_;
      for (Index c = 0; c < d; ++c) {
        sum[c] += static_cast<double>(own[c]);
      }
    }
  }
  void write(Index b, Index t, Index o) {
    const T* __restrict x = x_.at(b, t, o / x_each_);
    A* __restrict y = y_.at(b, t, o);
    const Index d = d_;
    const double shared = shared_[static_cast<std::size_t>(o)];
    if (!gk_.defined()) {
      const A factor = scale_ * simd::exp(static_cast<A>(shared));
      for (Index c = 0; c < d; ++c) {
        y[c] = factor * convert<A>(x[c]);
      }
      return;
    }
    const A scale = scale_;
    const double* __restrict sum = sums_.data() + o * d;
    A* __restrict factor = factors_.data();
    for (Index c = 0; c < d; ++c) {
      factor[c] = static_cast<A>(sum[c] + shared);
    }
    for (Index c = 0; c < d; ++c) {
      factor[c] = simd::exp(factor[c]);
    }
    for (Index c = 0; c < d; ++c) {
      y[c] = scale * factor[c] * convert<A>(x[c]);
    }
  }

  common::Operand<T> x_;
  common::Operand<A> g_, gk_;
  common::Result<A> y_;
  Index tokens_, heads_, d_, x_each_, g_each_;
  DecaySpan span_;
  A scale_;
  std::vector<double> sums_, shared_;  // by head
  std::vector<A> factors_;
};

template <class T>
void walk(const TensorView& x, const Op::In<TensorView>& in, TensorView& y, const Op::Attrs& a) {
  if (y.numel() == 0) {
    return;
  }
  const Index tasks = y.size(0) * y.size(2), task = y.numel() / tasks;
  parallel_for(tasks, row_grain(task, 16384),
               [&](Index begin, Index end) { Walk<T>(x, in, y, a).run(begin, end); });
}

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    walk<T>(in.x, in, out.y, a);
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    if (din.x.numel() == 0) {
      return;
    }
    // By head of the outputs, then the heads that share one of x in order.
    Tensor each = Tensor::empty(dout.y.shape(), dtype_of<A>::value);
    TensorView by_head = each;
    walk<A>(dout.y, in, by_head, a);
    const Index d = din.x.size(3), share = dout.y.size(2) / din.x.size(2);
    const A* const from = by_head.data<A>();
    T* const to = din.x.data<T>();
    parallel_for(din.x.numel() / d, row_grain(share * d, 16384), [&](Index begin, Index end) {
      for (Index i = begin * d; i < end * d; ++i) {
        const A* const first = from + i / d * share * d + i % d;
        A sum = 0;
        for (Index j = 0; j < share; ++j) {
          sum += first[j * d];
        }
        to[i] = convert<T>(sum);
      }
    });
  }
};

LS_KERNEL(RowDecay)
    .reads("x gk y", lies::heads)
    .reads("g", lies::anyhow)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
