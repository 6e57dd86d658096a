#pragma once
// Decays of a chunk that differ between the channels of a key, and the products of rows that they
// weigh: score_ij = sum over channels of reader_i * writer_j * (product of exp(g_t), j < t <= i).
//
// Neither exp(G_i) nor exp(-G_j) may stand alone: one underflows, the other overflows. The pairs
// below the diagonal of a chunk are those of a node's upper and lower half, for nodes of 2, 4, 8,
// ... tokens: with `middle` between the halves the factor is that of i from the middle on, times
// that of j up to the middle, both products of factors at most 1. So each level costs one factor a
// token and channel, and one product of matrices a node. The gradient of a log-decay g_t is the sum
// over the pairs j < t <= i of their shares of the loss: in a node a sum over the readers from t
// on, or over the writers before t. All its terms have the factor exp(g_t), so it keeps its digits
// however small that is. core/ops/delta_rule/NOTES.md.
#include <algorithm>
#include <limits>

#include "core/backend/cpu/simd_math.h"
#include "core/backend/cpu/small_gemm.h"
#include "core/ops/common/chunks.h"

namespace ls::ops::common {

/// What a reader takes: the state after token i (of key rows that read what is decayed already, of
/// queries), or the one before its decay, which lacks the factor exp(g_i).
enum class Reads : std::uint8_t { kDecayed, kBefore };

/// One thread's factors and scratch rows; readers and writers are lists of matrices [c,d] that lie
/// one after the other.
template <class A>
class PairDecays {
 public:
  void reserve(Workspace<A>& ws, Index most, Index d, Index readers, Index writers) {
    d_ = d;
    ws.add(most * d, alpha_, in_, out_, factor_);
    ws.add(d, sum_, ones_, all_);
    ws.add(readers * most * d, rows_, drows_);
    ws.add(writers * most * d, columns_, dcolumns_);
  }
  /// Of c tokens: g(t, to) writes the d log-decays of token t.
  template <class G>
  void load(Index c, G&& g) {
    c_ = c;
    std::fill(ones_, ones_ + d_, A(1));
    std::fill(all_, all_ + d_, A(0));
    for (Index t = 0; t < c; ++t) {
      A* __restrict row = alpha_ + t * d_;
      g(t, row);
      for (Index x = 0; x < d_; ++x) {
        const A given = row[x] < A(-2000) ? A(-2000) : row[x];
        all_[x] += given;
        row[x] = normal(simd::exp(given));
      }
    }
    for (Index x = 0; x < d_; ++x) {
      all_[x] = normal(simd::exp(all_[x]));
    }
    running(0, c, in_);
    running_back(0, c, out_);
  }
  /// The factor [d] of all tokens: from the sum of logs, so that decays near 1, which round to one
  /// side, do not add their errors up over a sequence.
  const A* all() const { return all_; }
  /// exp(g_t), [c,d].
  const A* step(Index t) const { return alpha_ + t * d_; }
  /// From the incoming state to token i.
  const A* in(Index i, Reads reads) const { return row_factor(in_, 0, i, reads); }
  /// From token j to the outgoing state.
  const A* out(Index j) const { return out_ + j * d_; }

  /// scores [readers,c,writers*c] = the weighted products below the diagonal, 0 elsewhere.
  void scores(Index readers, const A* r, const Reads* reads, Index writers, const A* w, A* to) {
    const Index ld = writers * c_;
    std::fill(to, to + readers * c_ * ld, A(0));
    for_nodes([&](Index begin, Index middle, Index end) {
      weigh(begin, middle, end, readers, r, reads, writers, w);
      const Index m = end - middle, n = middle - begin;
      for (Index x = 0; x < readers; ++x) {
        for (Index y = 0; y < writers; ++y) {
          times(m, n, rows_ + x * m * d_, columns_ + y * n * d_,
                to + (x * c_ + middle) * ld + y * c_ + begin, ld);
        }
      }
    });
  }
  /// Adds to rows [readers,c,d] the writers before each token, weighed and times m [readers,c,
  /// writers*c], which is read below the diagonal only.
  void gather(Index readers, const Reads* reads, Index writers, const A* w, const A* m, A* to) {
    for_nodes([&](Index begin, Index middle, Index end) {
      weigh(begin, middle, end, 0, nullptr, reads, writers, w);
      to_readers(begin, middle, end, readers, reads, writers, m, to);
    });
  }
  /// Adds what gradients `ds` of scores (read below the diagonal only) give to those of readers and
  /// writers, and to those [c,d] of the log-decays unless null.
  void gradients(Index readers, const A* r, const Reads* reads, Index writers, const A* w,
                 const A* ds, A* dr, A* dw, A* dlog) {
    const Index ld = writers * c_;
    for_nodes([&](Index begin, Index middle, Index end) {
      weigh(begin, middle, end, readers, r, reads, writers, w);
      const Index m = end - middle, n = middle - begin;
      to_readers(begin, middle, end, readers, reads, writers, ds, dr);
      for (Index y = 0; y < writers; ++y) {
        for (Index x = 0; x < readers; ++x) {
          small_gemm<true, false, A>(n, d_, m, A(1), ds + (x * c_ + middle) * ld + y * c_ + begin,
                                     ld, rows_ + x * m * d_, d_, x > 0 ? A(1) : A(0),
                                     dcolumns_ + y * n * d_, d_);
        }
      }
      for (Index y = 0; y < writers; ++y) {
        for (Index j = begin; j < middle; ++j) {
          add_product(factor_ + j * d_, dcolumns_ + (y * n + j - begin) * d_,
                      dw + (y * c_ + j) * d_);
        }
      }
      if (dlog) {
        from_readers(middle, end, readers, reads, rows_, drows_, dlog);
        from_writers(begin, middle, writers, columns_, dcolumns_, dlog);
      }
    });
  }
  /// Adds to dlog [c,d] the shares of the loss that readers [readers,end-begin,d] take from what
  /// lies before `begin`: rows are weighed already, drows their gradients.
  void from_readers(Index begin, Index end, Index readers, const Reads* reads, const A* rows,
                    const A* drows, A* dlog) {
    A* __restrict sum = sum_;
    std::fill(sum, sum + d_, A(0));
    const auto add = [&](Index i, Reads which) {
      for (Index x = 0; x < readers; ++x) {
        if (reads[x] == which) {
          const Index at = (x * (end - begin) + i - begin) * d_;
          add_product(rows + at, drows + at, sum);
        }
      }
    };
    for (Index i = end - 1; i >= begin; --i) {
      add(i, Reads::kDecayed);
      add_to(dlog + i * d_);
      add(i, Reads::kBefore);
    }
  }
  /// The same of writers [writers,end-begin,d], which something behind `end` reads.
  void from_writers(Index begin, Index end, Index writers, const A* columns, const A* dcolumns,
                    A* dlog) {
    std::fill(sum_, sum_ + d_, A(0));
    for (Index j = begin; j < end; ++j) {
      add_to(dlog + j * d_);
      for (Index y = 0; y < writers; ++y) {
        const Index at = (y * (end - begin) + j - begin) * d_;
        add_product(columns + at, dcolumns + at, sum_);
      }
    }
  }

 private:
  /// 0 below the smallest normal number: products with subnormal ones are slow.
  static A normal(A x) { return x < std::numeric_limits<A>::min() ? A(0) : x; }
  void multiply(const A* __restrict a, const A* __restrict b, A* __restrict to) const {
    for (Index x = 0; x < d_; ++x) {
      to[x] = normal(a[x] * b[x]);
    }
  }
  void add_product(const A* __restrict a, const A* __restrict b, A* __restrict to) const {
    for (Index x = 0; x < d_; ++x) {
      to[x] += a[x] * b[x];
    }
  }
  void add_to(A* __restrict to) const {
    for (Index x = 0; x < d_; ++x) {
      to[x] += sum_[x];
    }
  }
  /// to_i = product of the factors of begin .. i.
  void running(Index begin, Index end, A* to) const {
    std::copy(step(begin), step(begin) + d_, to + begin * d_);
    for (Index i = begin + 1; i < end; ++i) {
      multiply(to + (i - 1) * d_, step(i), to + i * d_);
    }
  }
  /// to_j = product of the factors of j + 1 .. end - 1.
  void running_back(Index begin, Index end, A* to) const {
    std::fill(to + (end - 1) * d_, to + end * d_, A(1));
    for (Index j = end - 2; j >= begin; --j) {
      multiply(to + (j + 1) * d_, step(j + 1), to + j * d_);
    }
  }
  const A* row_factor(const A* factors, Index begin, Index i, Reads reads) const {
    if (reads == Reads::kDecayed) {
      return factors + i * d_;
    }
    return i == begin ? ones_ : factors + (i - 1) * d_;
  }
  template <class F>
  void for_nodes(F&& f) const {
    for (Index half = 1; half < c_; half *= 2) {
      for (Index begin = 0; begin + half < c_; begin += 2 * half) {
        f(begin, begin + half, std::min(c_, begin + 2 * half));
      }
    }
  }
  /// The factors of a node, and its rows and columns times them.
  void weigh(Index begin, Index middle, Index end, Index readers, const A* r, const Reads* reads,
             Index writers, const A* w) {
    running(middle, end, factor_);
    running_back(begin, middle, factor_);
    const Index m = end - middle, n = middle - begin;
    for (Index x = 0; x < readers; ++x) {
      for (Index i = middle; i < end; ++i) {
        scaled(row_factor(factor_, middle, i, reads[x]), r + (x * c_ + i) * d_,
               rows_ + (x * m + i - middle) * d_);
      }
    }
    for (Index y = 0; y < writers; ++y) {
      for (Index j = begin; j < middle; ++j) {
        scaled(factor_ + j * d_, w + (y * c_ + j) * d_, columns_ + (y * n + j - begin) * d_);
      }
    }
  }
  /// Adds to the readers of a node s times its weighed writers; drows_ is that without the readers'
  /// own factor.
  void to_readers(Index begin, Index middle, Index end, Index readers, const Reads* reads,
                  Index writers, const A* s, A* to) {
    const Index ld = writers * c_, m = end - middle, n = middle - begin;
    for (Index x = 0; x < readers; ++x) {
      for (Index y = 0; y < writers; ++y) {
        small_gemm<false, false, A>(m, d_, n, A(1), s + (x * c_ + middle) * ld + y * c_ + begin, ld,
                                    columns_ + y * n * d_, d_, y > 0 ? A(1) : A(0),
                                    drows_ + x * m * d_, d_);
      }
      for (Index i = middle; i < end; ++i) {
        add_product(row_factor(factor_, middle, i, reads[x]), drows_ + (x * m + i - middle) * d_,
                    to + (x * c_ + i) * d_);
      }
    }
  }
  void scaled(const A* __restrict f, const A* __restrict from, A* __restrict to) const {
    for (Index x = 0; x < d_; ++x) {
      to[x] = f[x] * from[x];
    }
  }
  /// to [m,n] = a b^T.
  void times(Index m, Index n, const A* a, const A* b, A* to, Index ld) const {
    constexpr Index kSmall = 4;
    if (m > kSmall || n > kSmall) {
      small_gemm<false, true, A>(m, n, d_, A(1), a, d_, b, d_, A(0), to, ld);
      return;
    }
    for (Index i = 0; i < m; ++i) {
      for (Index j = 0; j < n; ++j) {
        to[i * ld + j] = dot(d_, a + i * d_, b + j * d_);
      }
    }
  }

  Index d_ = 0, c_ = 0;
  A *alpha_ = nullptr, *in_ = nullptr, *out_ = nullptr;  // [c,d]
  A* factor_ = nullptr;                                  // [c,d], of the node at hand
  A *sum_ = nullptr, *ones_ = nullptr, *all_ = nullptr;  // [d]
  A *rows_ = nullptr, *drows_ = nullptr;        // readers of a node, weighed; their gradients
  A *columns_ = nullptr, *dcolumns_ = nullptr;  // writers
};

}  // namespace ls::ops::common
