#pragma once
// Decays per channel inside a chunk, for scan kernels. Between what token j writes and token i > j
// reads, channel x carries the factor
//   D_ij = prod_{j < t <= i} exp(g_t)   inclusive: the read comes after the write
//   D_ij = prod_{j < t < i} exp(g_t)    exclusive: the read comes before it
// and D_ii = 1. Products with D are made of blocks of kBlock tokens. In a block, D is multiplied up
// token by token; between blocks it is in_i between out_j, `in` from the first token of i's block,
// `out` to the last of j's, `between` that of whole blocks, so that matrix products do the work.
// Every factor is at most 1 and none is a quotient: gates of any strength neither overflow nor lose
// digits. The totals of blocks are exponentials of sums of logs, so that errors do not add up over
// a long sequence. NOTES.md of decayed_linear has the derivation.
#include <limits>

#include "core/backend/cpu/small_gemm.h"
#include "core/ops/common/chunks.h"

namespace ls::ops::common {

template <class A>
class ChannelDecays {
 public:
  static constexpr Index kBlock = 16;

  /// For chunks of at most `most` tokens and d channels.
  void reserve(Workspace<A>& ws, Index most, Index d, bool trivial) {
    d_ = d;
    trivial_ = trivial;
    all_ = nullptr;
    if (trivial) {
      return;
    }
    const Index blocks = pieces(most, kBlock);
    ws.add(most * d, step_, in_, out_, side_, read_, written_);
    ws.add((blocks + 1) * d, head_, tail_, total_, pass_);
    ws.add(kBlock * d, product_, chain_);
    ws.add(d, sum_);
  }
  /// No channel decays: all factors are 1.
  bool trivial() const { return trivial_; }

  /// c tokens; g(i, row) writes the log-decays [d] of token i. An exclusive read does not see its
  /// own token but where the diagonal of a product says so.
  template <class G>
  void load(Index c, bool exclusive, G&& g) {
    c_ = c;
    exclusive_ = exclusive;
    if (trivial_) {
      return;
    }
    const Index blocks = pieces(c, kBlock);
    for (Index z = 0; z < blocks; ++z) {
      load_block(z, g);
    }
    // total_ holds the sums of logs so far.
    std::fill(sum_, sum_ + d_, A(0));
    for (Index z = 0; z < blocks; ++z) {
      exp_row(sum_, head_ + z * d_);
      add(total_ + z * d_, sum_);
    }
    exp_row(sum_, head_ + blocks * d_);
    all_ = head_ + blocks * d_;
    std::fill(sum_, sum_ + d_, A(0));
    for (Index z = blocks - 1; z >= 0; --z) {
      exp_row(sum_, tail_ + z * d_);
      add(total_ + z * d_, sum_);
      exp_row(total_ + z * d_, total_ + z * d_);
    }
  }

  /// D of the whole chunk [d]; null where trivial.
  const A* all() const { return all_; }
  /// to_i = D from the chunk's start to the read of i, times x_i. `to` may be x.
  void from_start(const A* x, A* to) const { scaled(x, in_, head_, to); }
  /// to_j = D from the write of j to the chunk's end, times x_j. `to` may be x.
  void to_end(const A* x, A* to) const { scaled(x, out_, tail_, to); }

  /// p [c,c]: p_ij = q_i . (D_ij k_j) for j < i, and for j = i where `diagonal`; else 0.
  void scores(const A* q, const A* k, bool diagonal, A* p) {
    if (trivial_) {
      small_gemm<false, true, A>(c_, c_, d_, A(1), q, d_, k, d_, A(0), p, c_);
      clear_above(diagonal, p);
      return;
    }
    clear_above(diagonal, p);
    for (Index lo = 0; lo < c_; lo += kBlock) {
      const Index n = std::min(kBlock, c_ - lo);
      if (lo > 0) {
        multiply(n, q + lo * d_, in_ + lo * d_, product_);
        small_gemm<false, true, A>(n, lo, d_, A(1), product_, d_, side_, d_, A(0), p + lo * c_, c_);
      }
      for (Index j = lo; j < lo + n; ++j) {
        const A* const key = k + j * d_;
        p[j * c_ + j] = diagonal ? dot(d_, q + j * d_, key) : A(0);
        walk(j, lo + n, [&](Index i, const A* between) {
          p[i * c_ + j] = dot_of_three(q + i * d_, key, between);
        });
      }
      carry_writes(lo, n, k);
    }
  }
  /// y_i += sum_{j < i} m_ij D_ij k_j, and j = i where `diagonal`.
  void gather(const A* m, const A* k, bool diagonal, A* y) {
    if (trivial_) {
      small_gemm<false, false, A>(c_, d_, c_, A(1), m, c_, k, d_, A(1), y, d_);
      return;
    }
    for (Index lo = 0; lo < c_; lo += kBlock) {
      const Index n = std::min(kBlock, c_ - lo);
      if (lo > 0) {
        small_gemm<false, false, A>(n, d_, lo, A(1), m + lo * c_, c_, side_, d_, A(0), product_,
                                    d_);
        multiply_add(n, in_ + lo * d_, product_, y + lo * d_);
      }
      for (Index j = lo; j < lo + n; ++j) {
        const A* const key = k + j * d_;
        if (diagonal) {
          add_scaled(m[j * c_ + j], key, y + j * d_);
        }
        walk(j, lo + n, [&](Index i, const A* between) {
          add_scaled(m[i * c_ + j], key, between, y + i * d_);
        });
      }
      carry_writes(lo, n, k);
    }
  }
  /// x_j += sum_{i > j} m_ij D_ij q_i, and i = j where `diagonal`.
  void scatter(const A* m, const A* q, bool diagonal, A* x) {
    if (trivial_) {
      small_gemm<true, false, A>(c_, d_, c_, A(1), m, c_, q, d_, A(1), x, d_);
      return;
    }
    for (Index z = pieces(c_, kBlock) - 1; z >= 0; --z) {
      const Index lo = z * kBlock, n = std::min(kBlock, c_ - lo);
      later_reads(lo, n, m, product_);
      multiply_add(n, out_ + lo * d_, product_, x + lo * d_);
      for (Index j = lo; j < lo + n; ++j) {
        if (diagonal) {
          add_scaled(m[j * c_ + j], q + j * d_, x + j * d_);
        }
        walk(j, lo + n, [&](Index i, const A* between) {
          add_scaled(m[i * c_ + j], q + i * d_, between, x + j * d_);
        });
      }
      carry_reads(lo, n, q);
    }
  }

  /// What the gradients of one reader need besides m, the gradient of its scores.
  struct Ends {
    const A* from_state;  ///< [c,d] gradient of from_start(q), null: none
    const A* to_state;    ///< [c,d] gradient of to_end(k), null: none
    const A* through;     ///< [d] gradient of log all(), null: none
  };
  /// Gradients of scores(q, k), from_start(q) and to_end(k): dq is set; to dk and dg, the gradient
  /// of the log-decays, is added. dg_t sums what tokens before t (or the state) write and tokens
  /// from t on (or the next state) read: every term has the factor exp(g_t), so that a small
  /// gradient is as exact as a large one.
  void gradients(const A* m, const A* q, const A* k, bool diagonal, const Ends& ends, A* dq, A* dk,
                 A* dg) {
    if (trivial_) {
      plain_gradients(m, q, k, ends, dq, dk);
      return;
    }
    std::fill(pass_, pass_ + pieces(c_, kBlock) * d_, A(0));
    for (Index lo = 0; lo < c_; lo += kBlock) {
      const Index n = std::min(kBlock, c_ - lo);
      reads_from_before(lo, n, m, q, ends.from_state, dq);
      carry_writes(lo, n, k);
    }
    writes_to_end(k, ends, dk);
    for (Index z = pieces(c_, kBlock) - 1; z >= 0; --z) {
      const Index lo = z * kBlock, n = std::min(kBlock, c_ - lo);
      later_reads(lo, n, m, product_);
      for (Index j = lo; j < lo + n; ++j) {
        times_out(j, product_ + (j - lo) * d_, k, dk);
      }
      carry_reads(lo, n, q);
      sum_up(lo, n, dg);
      for (Index j = lo; j < lo + n; ++j) {
        inside(j, lo + n, m, q, k, diagonal, dq, dk, dg);
      }
    }
  }

 private:
  void plain_gradients(const A* m, const A* q, const A* k, const Ends& ends, A* dq, A* dk) const {
    if (ends.from_state) {
      std::copy(ends.from_state, ends.from_state + c_ * d_, dq);
    } else {
      std::fill(dq, dq + c_ * d_, A(0));
    }
    for (Index e = 0; ends.to_state && e < c_ * d_; ++e) {
      dk[e] += ends.to_state[e];
    }
    small_gemm<false, false, A>(c_, d_, c_, A(1), m, c_, k, d_, A(1), dq, d_);
    small_gemm<true, false, A>(c_, d_, c_, A(1), m, c_, q, d_, A(1), dk, d_);
  }

  static constexpr A kLeast = std::numeric_limits<A>::min();
  /// Products with subnormal numbers are slow.
  static A flushed(A x) { return x < kLeast ? A(0) : x; }

  void exp_row(const A* x, A* to) const {
#pragma omp simd
    for (Index e = 0; e < d_; ++e) {
      to[e] = flushed(simd::exp(x[e]));
    }
  }
  void add(const A* __restrict x, A* __restrict to) const {
    for (Index e = 0; e < d_; ++e) {
      to[e] += x[e];
    }
  }
  void add_scaled(A f, const A* __restrict x, A* __restrict to) const {
    for (Index e = 0; e < d_; ++e) {
      to[e] += f * x[e];
    }
  }
  void add_scaled(A f, const A* __restrict x, const A* __restrict y, A* __restrict to) const {
    for (Index e = 0; e < d_; ++e) {
      to[e] += f * x[e] * y[e];
    }
  }
  void multiply(Index n, const A* __restrict x, const A* __restrict y, A* __restrict to) const {
    for (Index e = 0; e < n * d_; ++e) {
      to[e] = x[e] * y[e];
    }
  }
  void multiply_add(Index n, const A* __restrict x, const A* __restrict y, A* __restrict to) const {
    for (Index e = 0; e < n * d_; ++e) {
      to[e] += x[e] * y[e];
    }
  }
  A dot_of_three(const A* __restrict x, const A* __restrict y, const A* __restrict z) const {
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Index e = 0; e < d_; ++e) {
      sum += x[e] * y[e] * z[e];
    }
    return sum;
  }
  void scaled(const A* x, const A* inside, const A* blocks, A* to) const {
    if (trivial_) {
      if (x != to) {
        std::copy(x, x + c_ * d_, to);
      }
      return;
    }
    for (Index i = 0; i < c_; ++i) {
      const A *a = inside + i * d_, *b = blocks + i / kBlock * d_, *from = x + i * d_;
      A* const row = to + i * d_;
#pragma omp simd
      for (Index e = 0; e < d_; ++e) {
        row[e] = from[e] * (a[e] * b[e]);
      }
    }
  }
  void clear_above(bool diagonal, A* p) const {
    for (Index i = 0; i < c_; ++i) {
      std::fill(p + i * c_ + i + (diagonal ? 1 : 0), p + (i + 1) * c_, A(0));
    }
  }

  /// Steps, `in` and `out` of block z; its sum of logs into total_.
  template <class G>
  void load_block(Index z, G&& g) {
    const Index lo = z * kBlock, hi = std::min(c_, lo + kBlock);
    A* const total = total_ + z * d_;
    std::fill(total, total + d_, A(0));
    for (Index i = lo; i < hi; ++i) {
      A* __restrict step = step_ + i * d_;
      g(i, step);
      for (Index e = 0; e < d_; ++e) {
        const A x = step[e] < A(-2000) ? A(-2000) : step[e];  // as good as -infinity, and finite
        total[e] += x;
        step[e] = flushed(simd::exp(x));
      }
    }
    for (Index i = lo; i < hi; ++i) {
      A* __restrict row = in_ + i * d_;
      const A* __restrict step = step_ + (exclusive_ ? i - 1 : i) * d_;
      if (i == lo && exclusive_) {
        std::fill(row, row + d_, A(1));
      } else if (i == lo) {
        std::copy(step, step + d_, row);
      } else {
        for (Index e = 0; e < d_; ++e) {
          row[e] = flushed(row[e - d_] * step[e]);
        }
      }
    }
    std::fill(out_ + (hi - 1) * d_, out_ + hi * d_, A(1));
    for (Index j = hi - 2; j >= lo; --j) {
      A* __restrict row = out_ + j * d_;
      const A* __restrict step = step_ + (j + 1) * d_;
      for (Index e = 0; e < d_; ++e) {
        row[e] = flushed(row[e + d_] * step[e]);
      }
    }
  }
  /// f(i, D_ij) for the tokens i = j + 1 .. end - 1 of a block.
  template <class F>
  void walk(Index j, Index end, F&& f) {
    A* const between = chain_;
    for (Index i = j + 1; i < end; ++i) {
      follow(j, i, between, between);
      f(i, between);
    }
  }
  /// D_ij from D_{i-1,j}.
  void follow(Index j, Index i, const A* from, A* to) const {
    const A* const step = step_ + (exclusive_ ? i - 1 : i) * d_;
    if (i == j + 1) {
      if (exclusive_) {
        std::fill(to, to + d_, A(1));
      } else {
        std::copy(step, step + d_, to);
      }
      return;
    }
#pragma omp simd
    for (Index e = 0; e < d_; ++e) {
      to[e] = flushed(from[e] * step[e]);
    }
  }
  /// Makes rows [0, lo + n) of side_ the keys as the next block finds them.
  void carry_writes(Index lo, Index n, const A* k) {
    if (lo + n >= c_) {
      return;
    }
    const A* __restrict total = total_ + lo / kBlock * d_;
    for (Index j = 0; j < lo; ++j) {
      A* __restrict row = side_ + j * d_;
      for (Index e = 0; e < d_; ++e) {
        row[e] *= total[e];
      }
    }
    multiply(n, k + lo * d_, out_ + lo * d_, side_ + lo * d_);
  }
  /// Makes rows [lo, c) of side_ the queries as the block before finds them.
  void carry_reads(Index lo, Index n, const A* q) {
    if (lo == 0) {
      return;
    }
    const A* __restrict total = total_ + lo / kBlock * d_;
    for (Index i = lo + n; i < c_; ++i) {
      A* __restrict row = side_ + i * d_;
      for (Index e = 0; e < d_; ++e) {
        row[e] *= total[e];
      }
    }
    multiply(n, q + lo * d_, in_ + lo * d_, side_ + lo * d_);
  }
  /// to [n,d]: what tokens behind the block bring to its end.
  void later_reads(Index lo, Index n, const A* m, A* to) const {
    const Index hi = lo + n;
    small_gemm<true, false, A>(n, d_, c_ - hi, A(1), m + hi * c_ + lo, c_, side_ + hi * d_, d_,
                               A(0), to, d_);
  }
  /// dq of a block from the incoming state and the blocks before; read_ = q * dq, and pass_ of each
  /// block takes what goes from before it to here.
  void reads_from_before(Index lo, Index n, const A* m, const A* q, const A* from_state, A* dq) {
    std::fill(dq + lo * d_, dq + (lo + n) * d_, A(0));
    std::fill(read_ + lo * d_, read_ + (lo + n) * d_, A(0));
    std::fill(sum_, sum_ + d_, A(0));
    if (from_state) {
      for (Index i = lo; i < lo + n; ++i) {
        for (Index e = 0; e < d_; ++e) {
          product_[(i - lo) * d_ + e] = from_state[i * d_ + e] * head_[lo / kBlock * d_ + e];
        }
      }
      times_in(lo, n, q, dq);
    }
    for (Index from = 0; from < lo; from += kBlock) {
      add(sum_, pass_ + from / kBlock * d_);
      small_gemm<false, false, A>(n, d_, kBlock, A(1), m + lo * c_ + from, c_, side_ + from * d_,
                                  d_, A(0), product_, d_);
      times_in(lo, n, q, dq);
    }
  }
  /// dq_i += in_i * product_i; read_i and sum_ take their products with q_i.
  void times_in(Index lo, Index n, const A* q, A* dq) {
    A* __restrict sum = sum_;
    for (Index i = lo; i < lo + n; ++i) {
      const A* __restrict x = product_ + (i - lo) * d_;
      const A* __restrict in = in_ + i * d_;
      const A* __restrict query = q + i * d_;
      A* __restrict to = dq + i * d_;
      A* __restrict read = read_ + i * d_;
      for (Index e = 0; e < d_; ++e) {
        const A y = in[e] * x[e];
        to[e] += y;
        read[e] += query[e] * y;
        sum[e] += query[e] * y;
      }
    }
  }
  /// dk from the next state, written_ = k * dk, and pass_ takes what goes past each block to it.
  void writes_to_end(const A* k, const Ends& ends, A* dk) {
    std::fill(written_, written_ + c_ * d_, A(0));
    std::fill(sum_, sum_ + d_, A(0));
    if (ends.through) {
      std::copy(ends.through, ends.through + d_, sum_);
    }
    for (Index lo = 0; lo < c_; lo += kBlock) {
      const Index hi = std::min(c_, lo + kBlock);
      add(sum_, pass_ + lo / kBlock * d_);
      for (Index j = lo; ends.to_state && j < hi; ++j) {
        for (Index e = 0; e < d_; ++e) {
          product_[e] = ends.to_state[j * d_ + e] * tail_[lo / kBlock * d_ + e];
        }
        times_out(j, product_, k, dk);
        add(written_ + j * d_, sum_);
      }
    }
  }
  /// dk_j += out_j * x; written_j takes its product with k_j.
  void times_out(Index j, const A* __restrict x, const A* k, A* dk) {
    const A* __restrict out = out_ + j * d_;
    const A* __restrict key = k + j * d_;
    A* __restrict to = dk + j * d_;
    A* __restrict written = written_ + j * d_;
    for (Index e = 0; e < d_; ++e) {
      const A y = out[e] * x[e];
      to[e] += y;
      written[e] += key[e] * y;
    }
  }
  /// dg of a block from all pairs that are not inside it.
  void sum_up(Index lo, Index n, A* dg) {
    const A* const pass = pass_ + lo / kBlock * d_;
    A* __restrict sum = sum_;
    std::copy(pass, pass + d_, sum_);
    for (Index t = lo; t < lo + n; ++t) {  // written before t
      A* __restrict to = dg + t * d_;
      const A* __restrict written = written_ + t * d_;
      for (Index e = 0; e < d_; ++e) {
        to[e] += sum[e];
        sum[e] += written[e];
      }
    }
    std::fill(sum_, sum_ + d_, A(0));
    for (Index t = lo + n - 1; t >= lo; --t) {  // read from t on, or behind t
      A* __restrict to = dg + t * d_;
      const A* __restrict read = read_ + t * d_;
      for (Index e = 0; e < d_; ++e) {
        const A later = sum[e];
        sum[e] += read[e];
        to[e] += exclusive_ ? later : sum[e];
      }
    }
  }
  /// What token j writes and the later tokens of its block read.
  void inside(Index j, Index end, const A* m, const A* q, const A* k, bool diagonal, A* dq, A* dk,
              A* dg) {
    const A* __restrict key = k + j * d_;
    const auto between_of = [&](Index i) { return chain_ + (i - j - 1) * d_; };
    for (Index i = j + 1; i < end; ++i) {
      follow(j, i, between_of(i) - d_, between_of(i));
      add_scaled(m[i * c_ + j], key, between_of(i), dq + i * d_);
    }
    A* __restrict sum = sum_;
    std::fill(sum_, sum_ + d_, A(0));
    for (Index i = end - 1; i > j; --i) {
      const A f = m[i * c_ + j];
      const A* __restrict between = between_of(i);
      const A* __restrict query = q + i * d_;
      A* __restrict to = dg + i * d_;
      for (Index e = 0; e < d_; ++e) {
        const A later = sum[e];
        sum[e] += f * query[e] * between[e];
        to[e] += key[e] * (exclusive_ ? later : sum[e]);
      }
    }
    if (diagonal) {
      add_scaled(m[j * c_ + j], key, dq + j * d_);
      add_scaled(m[j * c_ + j], q + j * d_, sum_);
    }
    add(sum_, dk + j * d_);
  }

  Index d_ = 0, c_ = 0;
  bool trivial_ = true, exclusive_ = false;
  // [C,d]: exp(g), factors inside blocks, keys or queries on their way, products with gradients.
  A *step_ = nullptr, *in_ = nullptr, *out_ = nullptr, *side_ = nullptr, *read_ = nullptr,
    *written_ = nullptr;
  // [C/kBlock+1,d]: D before, behind, and of each block; gradient of its log.
  A *head_ = nullptr, *tail_ = nullptr, *total_ = nullptr, *pass_ = nullptr;
  A *product_ = nullptr, *chain_ = nullptr;  // [kBlock,d]
  A* sum_ = nullptr;                         // [d]
  const A* all_ = nullptr;                   // [d]
};

}  // namespace ls::ops::common
