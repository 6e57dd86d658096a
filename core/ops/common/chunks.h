#pragma once
// Parts of the scan kernels that cut a sequence into chunks of C tokens.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "core/backend/cpu/simd_math.h"
#include "core/base/parallel_for.h"
#include "core/op/report.h"
#include "core/ops/common/sequences.h"

namespace ls::ops::common {

/// Tokens per chunk unless the call says otherwise.
inline constexpr Index kChunk = 32;

/// auto: token by token where no sequence is longer than one token, else in chunks.
inline bool is_recurrent(const ScanAttrs& a, Index longest) {
  return a.form == Form::kRecurrent || (a.form == Form::kAuto && longest <= 1);
}
/// @throws Error(Unsupported) where the parallel form would hold scores too large for the memory
inline Index chunk_of(const ScanAttrs& a, Index length) {
  constexpr Index kLongest = 8192;
  LS_CHECK(a.form != Form::kParallel || length <= kLongest, kUnsupported,
           "the parallel form holds T x T scores: {} tokens are more than {}; use form chunk",
           length, kLongest);
  const Index given = a.chunk > 0 ? a.chunk : kChunk;
  return std::max<Index>(1, a.form == Form::kParallel ? length : std::min(given, length));
}
/// The form of Op's call whose longest sequence has so many tokens.
template <class Op>
void report_scan(const ScanAttrs& a, Index longest) {
  if (is_recurrent(a, longest)) {
    report_form<Op>("recurrent");
  } else if (a.form == Form::kParallel) {
    report_form<Op>("parallel");
  } else {
    report_form<Op>("chunk of {}", chunk_of(a, longest));
  }
}

/// One chunk of a task: c tokens of row b and head h from token t on, the i-th of their sequence.
struct Chunk {
  Index b, h, i, t, c;
  bool empty;   ///< the incoming state is zero: no product with it
  bool unread;  ///< no gradient arrives through the outgoing state, but one through the outputs
};
/// The chunks of a task: one sequence and head. Most sequences begin with a state of zeros and end
/// with one that nothing reads, which is half of the work of a sequence of one chunk.
class Chunks {
 public:
  Chunks(const ScanAttrs& a, const Sequence& seq, Index head, bool starts_empty, bool end_unread)
      : seq_(seq),
        head_(head),
        size_(chunk_of(a, seq.length)),
        starts_empty_(starts_empty),
        end_unread_(end_unread) {}
  Index count() const { return pieces(seq_.length, size_); }
  Chunk operator[](Index z) const {
    const Index i = z * size_;
    return {seq_.row,
            head_,
            i,
            seq_.begin + i,
            std::min(size_, seq_.length - i),
            z == 0 && starts_empty_,
            z == count() - 1 && end_unread_};
  }

 private:
  Sequence seq_;
  Index head_, size_;
  bool starts_empty_, end_unread_;
};

/// f(first, last) over tasks, task = sequence * heads + head, shared out by their tokens; pieces
/// below about 2 Mflop are not worth a thread.
template <class F>
void for_tasks(const std::vector<Sequence>& seqs, Index heads, Index flops_per_token, F&& f) {
  // Task i of a sequence occupies length + 1 units, so that empty sequences have their turn.
  std::vector<Index> start{0};
  for (const Sequence& s : seqs) {
    start.push_back(start.back() + heads * (s.length + 1));
  }
  const auto task_at = [&](Index unit) {  // the first task that starts at or after `unit`
    const auto s = std::upper_bound(start.begin(), start.end(), unit) - start.begin() - 1;
    return s < std::ssize(seqs) ? s * heads + pieces(unit - start[s], seqs[s].length + 1)
                                : s * heads;
  };
  constexpr Index kFlops = 2'000'000;
  parallel_for(start.back(), row_grain(flops_per_token, kFlops), [&](Index begin, Index end) {
    const Index first = task_at(begin), last = task_at(end);
    if (first < last) {
      f(first, last);
    }
  });
}

/// Runs the tasks of a call, each thread with a Pass(call, most, args...) of its own for chunks of
/// at most `most` tokens.
template <class Pass, class Call, class... Args>
void run_passes(const Call& call, Index flops_per_token, Index most, const Args&... args) {
  for_tasks(call.seqs, call.heads, flops_per_token, [&](Index first, Index last) {
    Pass pass(call, most, args...);
    for (Index task = first; task < last; ++task) {
      pass.run(task);
    }
  });
}

/// The buffers of a thread: asked for one by one, then allocated together, uninitialised.
template <class A>
class Workspace {
 public:
  template <class... P>
  void add(Index n, P*&... buffers) {
    (wanted_.emplace_back(&buffers, n), ...);
  }
  void allocate() {
    constexpr Index kLine = 64 / Index{sizeof(A)};
    // An odd number of lines apart, so that tiles of a power of two do not share cache sets.
    const auto room = [](Index n) { return ((n + kLine - 1) / kLine | 1) * kLine; };
    Index total = 0;
    for (const auto& [p, n] : wanted_) {
      total += room(n);
    }
    storage_ = std::make_unique<Storage>(total * Index{sizeof(A)});
    A* next = static_cast<A*>(storage_->data());
    for (const auto& [p, n] : wanted_) {
      *p = next;
      next += room(n);
    }
  }

 private:
  std::vector<std::pair<A**, Index>> wanted_;
  std::unique_ptr<Storage> storage_;
};

/// The decays of a chunk. Running sums G of log-decays are kept in two parts: after a very negative
/// one a plain sum would have lost the digits that differences of later ones need.
template <class A>
struct Decays {
  A *high, *low;        ///< G_i = high + low, inclusive
  A *in, *out;          ///< exp(G_i), exp(G_C - G_i)
  A* between;           ///< [C,C] exp(G_i - G_j) on and below the diagonal, 0 above
  A all = 1;            ///< exp(G_C)
  bool trivial = true;  ///< no decay: everything above is 1

  void reserve(Workspace<A>& ws, Index c) {
    ws.add(c, high, low, in, out);
    ws.add(c * c, between);
  }
  /// Of c tokens; `g(i)` is the log-decay of token i.
  template <class G>
  void load(Index c, G&& g) {
    trivial = false;
    known_ = 0;
    A sum = 0, rest = 0;
    for (Index i = 0; i < c; ++i) {
      const A given = g(i);
      const A x = given < A(-2000) ? A(-2000) : given;  // as good as -infinity, and finite
      const A next = sum + x, back = next - sum;
      rest += (sum - (next - back)) + (x - back);
      high[i] = sum = next;
      low[i] = rest;
    }
    for (Index i = 0; i < c; ++i) {
      in[i] = decay(high[i] + low[i]);
      out[i] = decay((sum - high[i]) + (rest - low[i]));
    }
    all = in[c - 1];
    for (Index i = 0; i < c; ++i) {
      A* __restrict row = between + i * c;
      const A hi = high[i], lo = low[i];
      for (Index j = 0; j <= i; ++j) {
        row[j] = decay((hi - high[j]) + (lo - low[j]));
      }
      std::fill(row + i + 1, row + c, A(0));
    }
  }
  /// Of c tokens with the same log-decay.
  void load_constant(Index c, A g) {
    if (known_ == c && known_g_ == g && !trivial) {
      return;
    }
    load(c, [g](Index) { return g; });
    known_ = c;
    known_g_ = g;
  }
  /// Of c tokens that do not decay.
  void load(Index c) {
    if (known_ == c && trivial) {
      return;
    }
    known_ = c;
    trivial = true;
    all = 1;
    std::fill(in, in + c, A(1));
    std::fill(out, out + c, A(1));
    for (Index i = 0; i < c; ++i) {
      std::fill(between + i * c, between + i * c + i + 1, A(1));
      std::fill(between + i * c + i + 1, between + (i + 1) * c, A(0));
    }
  }

 private:
  /// e^x, 0 below the smallest normal number: products with subnormal ones are slow.
  static A decay(A x) {
    constexpr A kLowest = sizeof(A) == 4 ? A(-87.3) : A(-708.3);
    const A y = simd::exp(x);
    return x < kLowest ? A(0) : y;
  }
  Index known_ = 0;  // tokens of what is loaded, where that can be used again
  A known_g_ = 0;
};

template <class A>
A dot(Index n, const A* x, const A* y) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < n; ++i) {
    sum += x[i] * y[i];
  }
  return sum;
}

/// Gradients of the log-decays of a chunk of c tokens. What token j < t writes and token i >= t
/// reads carries the factor exp(g_t), so dg_t is the sum of w_ij over these pairs; the incoming
/// state counts as written before all tokens, the outgoing one as read after all. Sums of such
/// terms alone keep their digits however small exp(g_t) is; differences of running sums would lose
/// them.
///   w [c,c]: from token j to i; null: all zero
///   past [c]: from token j to the outgoing state; it is overwritten
///   carried [c]: from the incoming state to token i; null: all zero      through: between the
///   states
template <class A, class Store>
void decay_gradients(Index c, const A* w, A* past, const A* carried, A through, Store&& store) {
  for (Index t = c - 1; t >= 0; --t) {
    A sum = 0;
    if (w) {
      const A* const row = w + t * c;
#pragma omp simd reduction(+ : sum)
      for (Index j = 0; j < t; ++j) {
        past[j] += row[j];
        sum += past[j];
      }
    } else {
#pragma omp simd reduction(+ : sum)
      for (Index j = 0; j < t; ++j) {
        sum += past[j];
      }
    }
    through += carried ? carried[t] : A(0);
    store(t, through + sum);
  }
}

/// to_i = factor * e_i * from_i, rows of d.
template <class A>
void scale_rows(Index rows, Index d, A factor, const A* e, const A* from, A* to) {
  for (Index i = 0; i < rows; ++i) {
    const A f = factor * e[i];
    const A* __restrict a = from + i * d;
    A* __restrict b = to + i * d;
    for (Index x = 0; x < d; ++x) {
      b[x] = f * a[x];
    }
  }
}

/// In place.
template <class A>
void scale_rows(Index rows, Index d, A factor, const A* e, A* x) {
  for (Index i = 0; i < rows; ++i) {
    const A f = factor * e[i];
    A* __restrict row = x + i * d;
    for (Index j = 0; j < d; ++j) {
      row[j] *= f;
    }
  }
}

/// to = factor * from * between, all [c,c]; `to` may be `from`. Zero above the diagonal.
template <class A>
void mask(Index c, A factor, const A* from, const A* between, A* to) {
  for (Index i = 0; i < c * c; ++i) {
    to[i] = factor * from[i] * between[i];
  }
}
/// The same with a zero diagonal.
template <class A>
void mask_strictly(Index c, A factor, const A* from, const A* between, A* to) {
  mask(c, factor, from, between, to);
  for (Index i = 0; i < c; ++i) {
    to[i * c + i] = 0;
  }
}

}  // namespace ls::ops::common
