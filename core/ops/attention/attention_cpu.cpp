// o_i = sum_j p_ij v_j with p = softmax(scores), by blocks of 64 queries x 64 keys; NOTES.md
// derives both passes. Keys are those of the cache and then the call's own.
// Forward: a task is a block of m queries of one query head. Blocks of n keys pass by it:
//   q [m,Dk]  k [n,Dk]  v [n,Dv]   operands of the products: bf16 as they are, else the acc type
//   s [m,n]                        scores, then e^(score - top); `rounded` the same as an operand
//   y [m,Dv]  top, sum [m]         running output, maximum and sum of the softmax
// Backward: a task is one key head of one row (of all rows, one after the other, when sink or bias
// want sums over the batch). Its keys and values, and their gradients, stay; the query heads that
// read them come one by one, and for each every pair of blocks that is not hidden:
//   k, gk [keys,Dk]  v, gv [keys,Dv]     q, gq [Tq,Dk]  gy [Tq,Dv]  delta [Tq] = rowsum(do o) -
//   dlse
//   p, s, slope [m,n]                    probabilities, made again from lse; their gradients; the
//                                        derivative of the cap
// Memory moved: q and o once, k and v once a block of queries; no [Tq,Tk] array.
// Few queries (decoding): a task is a piece of the keys of one row, all heads, read once where they
// lie, with the queries of the heads that read a key head side by side: q [H,m,Dk], s [m,n], m =
// group Tq. A piece leaves y [H,m,Dv], top and sum [H,m]; the pieces of a row, whose number depends
// on the number of keys alone, are then joined in order.
#include "core/ops/attention/attention.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/backend/cpu/gemm.h"
#include "core/backend/cpu/packed_gemm.h"
#include "core/backend/cpu/simd_math.h"
#include "core/backend/cpu/small_gemm.h"
#include "core/op/declare.h"
#include "core/op/report.h"
#include "core/ops/attention/attention_cache.h"
#include "core/ops/common/sequences.h"
#include "core/tensor/rows.h"
#include "core/tensor/view.h"

namespace ls::ops {
namespace {

using Op = Attention;
constexpr Index kBlock = 64;

/// What the products read: bf16 as it is, anything else in the accumulation type.
template <class T>
using operand_t = std::conditional_t<std::is_same_v<T, bf16>, bf16, acc_t<T>>;

/// `from`, or its values rounded into `to` where products read a narrower type.
template <class O, class A>
const O* as_operand(Index n, const A* from, O* to) {
  if constexpr (std::is_same_v<O, A>) {
    return from;
  } else {
    for (Index i = 0; i < n; ++i) {
      to[i] = convert<O>(from[i]);
    }
    return to;
  }
}

/// Keys that a query may see: [lo, hi) and [from, prefix), of all keys with the cache in front.
struct Range {
  Index lo, hi, from, prefix;
  /// Sees one of n keys from j on, or all of them.
  bool meets(Index j, Index n) const {
    return (lo < j + n && hi > j) || (from < j + n && prefix > j);
  }
  bool covers(Index j, Index n) const { return lo <= j && hi >= j + n; }
  bool sees(Index key) const { return (key >= lo && key < hi) || (key >= from && key < prefix); }
};

template <class T>
struct Call {
  using A = acc_t<T>;
  const Op::Attrs& a;
  bool appended;
  Index batch, queries, cached, rows, keys, q_heads, heads, group, dk, dv;  ///< rows: of the cache
  common::Operand<T> q, k, v, k0, v0;
  View<const std::int64_t, 2> start;
  View<const A, 1> sink, slopes;
  const A* bias;                           ///< null: none
  std::vector<common::Sequence> document;  ///< of each token, where documents are packed

  Call(const Op::In<TensorView>& in, const Op::Attrs& attrs)
      : a(attrs),
        appended(in.used.defined()),
        batch(in.q.size(0)),
        queries(in.q.size(1)),
        cached(common::cached_keys(in)),
        rows(in.k0.defined() ? in.k0.size(1) : 0),
        keys(cached + in.k.size(1)),
        q_heads(in.q.size(2)),
        heads(in.k.size(2)),
        group(q_heads / heads),
        dk(in.q.size(3)),
        dv(in.v.size(3)),
        q(in.q),
        k(in.k),
        v(in.v),
        k0(in.k0),
        v0(in.v0),
        start(checked_starts("attention", in.start, in.k.size(1))),
        sink(in.sink),
        slopes(in.slopes),
        bias(common::elements<A>(in.bias)) {
    if (in.offsets.defined()) {
      for (const common::Sequence& s : common::sequences(batch, queries, in.offsets, "attention")) {
        document.insert(document.end(), s.length, s);
      }
    }
  }
  Index blocks() const { return common::pieces(queries, kBlock); }
  /// Where lse [B,Tq,HQ] of a query lies.
  Index query(Index b, Index t, Index qh) const { return (b * queries + t) * q_heads + qh; }
  Index position(Index t) const { return t + cached + a.q_offset; }
  Range range(Index b, Index t) const {
    const Index at = position(t);
    Range r{0, keys, 0, std::min(a.prefix, keys)};
    if (a.causal) {
      r.hi = std::clamp<Index>(at + 1, 0, keys);
    }
    if (a.window > 0) {
      r.lo = std::clamp<Index>(at - a.window + 1, 0, keys);
    }
    Index first = 0, end = keys;
    if (start) {
      first = cached + start(b, t);
    } else if (!document.empty()) {
      first = document[t].begin;
      end = first + document[t].length;
    }
    r.lo = std::max(r.lo, first);
    r.hi = std::max(std::min(r.hi, end), r.lo);
    r.from = std::max<Index>(0, first);
    r.prefix = std::min(r.prefix, end);
    if (r.prefix <= r.from) {
      r.from = r.prefix = 0;
    }
    return r;
  }
  /// n keys or values [n,d] of a head from key j on.
  template <class O>
  void load_keys(const common::Operand<T>& cache, const common::Operand<T>& own, Index b, Index h,
                 Index j, Index n, Index d, O* to) const {
    const Index old = std::clamp<Index>(cached - j, 0, n);
    if (old > 0) {
      cache.load(b, j, h, old, d, to);
    }
    if (n > old) {
      own.load(b, j + old - cached, h, n - old, d, to + old * d);
    }
  }
  /// Scores of m queries from t on and n keys from j on, from their products s [m,n]: capped,
  /// biased, -inf where hidden. `slope` [m,n], where given, keeps the derivative of the cap.
  void scores(Index qh, const Range* ranges, Index t, Index m, Index j, Index n, A* s,
              A* slope) const {
    const A scale = A(a.scale), cap = A(a.softcap), decline = slopes ? slopes(qh) : A(0);
    for (Index r = 0; r < m; ++r) {
      A* __restrict row = s + r * n;
      for (Index c = 0; c < n; ++c) {
        row[c] *= scale;
      }
      if (cap > 0) {
        for (Index c = 0; c < n; ++c) {
          const A u = simd::tanh(row[c] / cap);
          row[c] = cap * u;
          if (slope) {
            slope[r * n + c] = 1 - u * u;
          }
        }
      }
      if (slopes) {
        for (Index c = 0; c < n; ++c) {
          row[c] -= decline * A(position(t + r) - (j + c));
        }
      }
      if (bias) {
        const A* line = bias + (qh * queries + t + r) * keys + j;
        for (Index c = 0; c < n; ++c) {
          row[c] += line[c];
        }
      }
      if (!ranges[r].covers(j, n)) {
        for (Index c = 0; c < n; ++c) {
          if (!ranges[r].sees(j + c)) {
            row[c] = -std::numeric_limits<A>::infinity();
          }
        }
      }
    }
  }
  /// None of m queries sees one of n keys from j on.
  bool hidden(const Range* ranges, Index m, Index j, Index n) const {
    return std::none_of(ranges, ranges + m, [&](const Range& r) { return r.meets(j, n); });
  }
};

/// The last rows of `old` and `fresh`, as many as `out` has. Those of `old` may stand there
/// already.
template <class T>
void keep_cache(const TensorView& old, const TensorView& fresh, TensorView& out) {
  const Index n = out.size(1), heads = out.size(2), d = out.size(3);
  const Index from_old = old.defined() ? old.size(1) : 0, first = from_old + fresh.size(1) - n;
  const Index done = std::clamp<Index>(from_old - first, 0, n);  // rows of `old`
  const bool in_place =
      done > 0 && n > 0 && old.slice(1, first, from_old).raw() == std::as_const(out).raw();
  const common::Operand<T> from(old), own(fresh);
  const common::Result<T> to(out);
  const Index start = in_place ? done : 0, rows = n - start;
  // Heads that lie side by side are copied together.
  const auto side_by_side = [&](const TensorView& x) { return !x.defined() || x.stride(2) == d; };
  const bool joined = side_by_side(old) && side_by_side(fresh) && side_by_side(out);
  const Index parts = joined ? 1 : heads, length = joined ? heads * d : d;
  parallel_for(out.size(0) * rows, row_grain(heads * d, 16384), [&](Index r0, Index r1) {
    for (Index r = r0; r < r1; ++r) {
      const Index b = r / rows, i = start + r % rows;
      for (Index h = 0; h < parts; ++h) {
        const T* const row =
            i < done ? from.at(b, first + i, h) : own.at(b, first + i - from_old, h);
        std::copy_n(row, length, to.at(b, i, h));
      }
    }
  });
}

/// The outgoing cache: the last keys (or values), or with `used` the buffer `old` with `fresh` put
/// in.
template <class T>
void keep_cache(const Op::In<TensorView>& in, Index cached, const TensorView& old,
                const TensorView& fresh, TensorView& out) {
  if (!in.used.defined()) {
    return keep_cache<T>(old, fresh, out);
  }
  if (*in.used.data<std::int64_t>() != cached && old.raw() == out.raw()) {
    return;  // a bad number: the cache stays as it is
  }
  const Index rows = out.size(1), keys = cached + fresh.size(1);
  TensorView keep = out.slice(1, 0, keys), room = out.slice(1, keys, rows);
  keep_cache<T>(old.slice(1, 0, cached), fresh, keep);
  keep_cache<T>(old.slice(1, keys, rows), fresh.slice(1, 0, 0), room);
}

/// One row of n scores joins a running softmax: it becomes e^(score - top), and y, the output so
/// far, is brought to the new top. A row that sees nothing yet becomes zeros.
template <class A>
void join(Index n, Index dv, A* __restrict row, A& top, A& sum, A* __restrict y) {
  A peak = top;
#pragma omp simd reduction(max : peak)
  for (Index c = 0; c < n; ++c) {
    peak = row[c] > peak ? row[c] : peak;
  }
  if (peak == -std::numeric_limits<A>::infinity()) {
    std::fill(row, row + n, A(0));
    return;
  }
  const A keep = simd::exp(top - peak);
  A added = 0;
#pragma omp simd reduction(+ : added)
  for (Index c = 0; c < n; ++c) {
    row[c] = simd::exp(row[c] - peak);
    added += row[c];
  }
  sum = sum * keep + added;
  top = peak;
  if (keep != A(1)) {
    for (Index c = 0; c < dv; ++c) {
      y[c] *= keep;
    }
  }
}

/// Outputs of few queries.
template <class T>
class FewQueries {
  using A = acc_t<T>;
  static constexpr A kInf = std::numeric_limits<A>::infinity();
  static constexpr Index kPiece = 512;  // keys, whole blocks

 public:
  FewQueries(const Call<T>& call, Op::Out<TensorView>& out)
      : call_(call),
        pieces_(std::max<Index>(1, common::pieces(call.keys, kPiece))),
        o_(out.o),
        lse_(out.lse.data<A>()),
        y_(call.batch * pieces_ * rows_ * (dv_ + 2)) {}
  void run() {
    const Index keys = std::min(kPiece, call_.keys);
    const Index grain = row_grain(keys * (dk_ + dv_) * rows_, 1 << 17);  // multiply-adds
    parallel_for(call_.batch * pieces_, grain, [&](Index first, Index last) {
      common::Scratch<T> operands(rows_ * dk_ + m_ * kBlock);
      T *q = operands.take(rows_ * dk_), *rounded = operands.take(m_ * kBlock);
      std::vector<A> s(static_cast<std::size_t>(m_ * kBlock));
      std::vector<Range> ranges(static_cast<std::size_t>(call_.queries));
      for (Index task = first; task < last; ++task) {
        piece(task, q, rounded, s.data(), ranges.data());
      }
    });
    parallel_for(call_.batch, row_grain(pieces_ * rows_ * dv_), [&](Index first, Index last) {
      for (Index b = first; b < last; ++b) {
        finish(b);
      }
    });
  }

 private:
  struct Part {
    A *y, *top, *sum;
  };
  /// Rows of a key head.
  Part part(Index task, Index h) {
    A* const y = y_.data() + task * rows_ * (dv_ + 2);
    return {y + h * m_ * dv_, y + rows_ * dv_ + h * m_, y + rows_ * (dv_ + 1) + h * m_};
  }
  void piece(Index task, T* q, T* rounded, A* s, Range* ranges) {
    const Index b = task / pieces_;
    const Index begin = task % pieces_ * kPiece, end = std::min(call_.keys, begin + kPiece);
    const Part all = part(task, 0);
    std::fill(all.y, all.y + rows_ * dv_, A(0));
    std::fill(all.top, all.top + rows_, -kInf);
    std::fill(all.sum, all.sum + rows_, A(0));
    Index lo = call_.keys, hi = 0;
    for (Index t = 0; t < call_.queries; ++t) {
      const Range g = ranges[t] = call_.range(b, t);
      lo = std::min(lo, g.prefix > 0 ? g.from : g.lo);
      hi = std::max({hi, g.hi, g.prefix});
    }
    for (Index qh = 0; qh < call_.q_heads; ++qh) {
      call_.q.load(b, 0, qh, call_.queries, dk_, q + qh * call_.queries * dk_);
    }
    for (Index j = std::max(begin, lo); j < std::min(end, hi);) {
      // Blocks end where keys of the cache end.
      const bool old = j < call_.cached;
      const Index n = std::min(kBlock, (old ? std::min(call_.cached, end) : end) - j);
      if (call_.hidden(ranges, call_.queries, j, n)) {
        j += n;
        continue;
      }
      stream(old ? call_.k0 : call_.k, b, old ? j : j - call_.cached, n, dk_);
      stream(old ? call_.v0 : call_.v, b, old ? j : j - call_.cached, n, dv_);
      for (Index h = 0; h < call_.heads; ++h) {
        block(part(task, h), b, h, j, n, q + h * m_ * dk_, rounded, s, ranges);
      }
      j += n;
    }
  }
  /// Brings n keys into the cache in the order of memory, which the processor fetches ahead; a head
  /// alone has gaps between its keys.
  void stream(const common::Operand<T>& x, Index b, Index at, Index n, Index d) const {
    constexpr Index kLine = 64 / Index{sizeof(T)};
    for (Index i = 0; i < n; ++i) {
      for (Index h = 0; h < call_.heads; ++h) {
        const T* const row = x.at(b, at + i, h);
        for (Index c = 0; c < d; c += kLine) {
          asm volatile("" ::"r"(*reinterpret_cast<const volatile char*>(row + c)));
        }
      }
    }
  }
  /// n keys from j on, all of the cache or none, join a piece.
  void block(const Part& p, Index b, Index h, Index j, Index n, const T* q, T* rounded, A* s,
             const Range* ranges) {
    const bool old = j < call_.cached;
    const Index at = old ? j : j - call_.cached;
    const auto &k = old ? call_.k0 : call_.k, &v = old ? call_.v0 : call_.v;
    gemm<T, A>(false, true, m_, n, dk_, 1, q, dk_, k.at(b, at, h), key_stride(k, dk_), 0, s, n);
    for (Index r = 0; r < call_.group; ++r) {
      call_.scores(h * call_.group + r, ranges, 0, call_.queries, j, n, s + r * call_.queries * n,
                   nullptr);
    }
    for (Index r = 0; r < m_; ++r) {
      join(n, dv_, s + r * n, p.top[r], p.sum[r], p.y + r * dv_);
    }
    gemm<T, A>(false, false, m_, dv_, n, 1, as_operand(m_ * n, s, rounded), n, v.at(b, at, h),
               key_stride(v, dv_), 1, p.y, dv_);
  }
  /// Elements between keys of a head, where there is more than one.
  static Index key_stride(const common::Operand<T>& x, Index d) {
    return std::max<Index>(d, x.at(0, 1, 0) - x.at(0, 0, 0));
  }
  void finish(Index b) {
    const Part all = part(b * pieces_, 0);
    for (Index z = 1; z < pieces_; ++z) {
      const Part next = part(b * pieces_ + z, 0);
      for (Index r = 0; r < rows_; ++r) {
        add(all.y + r * dv_, all.top[r], all.sum[r], next.y + r * dv_, next.top[r], next.sum[r]);
      }
    }
    for (Index r = 0; r < rows_; ++r) {
      const Index qh = r / call_.queries, t = r % call_.queries;
      A *const y = all.y + r * dv_, &top = all.top[r], &sum = all.sum[r];
      if (call_.sink) {
        add(y, top, sum, nullptr, call_.sink(qh), A(1));
      }
      const A inverse = sum > 0 ? A(1) / sum : A(0);
      for (Index c = 0; c < dv_; ++c) {
        y[c] *= inverse;
      }
      lse_[call_.query(b, t, qh)] = sum > 0 ? top + std::log(sum) : -kInf;
      o_.store(b, t, qh, 1, dv_, y);
    }
  }
  /// Joins the softmax over other keys, whose output is `more`, zeros where null.
  void add(A* y, A& top, A& sum, const A* more, A more_top, A more_sum) const {
    const A peak = std::max(top, more_top);
    if (peak == -kInf) {
      return;
    }
    const A mine = simd::exp(top - peak), other = simd::exp(more_top - peak);
    for (Index c = 0; c < dv_; ++c) {
      y[c] = y[c] * mine + (more ? more[c] * other : A(0));
    }
    sum = sum * mine + more_sum * other;
    top = peak;
  }

  const Call<T>& call_;
  const Index pieces_, m_ = call_.group * call_.queries, rows_ = call_.heads * m_, dk_ = call_.dk,
                       dv_ = call_.dv;
  common::Result<T> o_;
  A* lse_;
  std::vector<A> y_;  // of each task y [rows,Dv], top [rows], sum [rows]
};

/// Few rows, for which products read the other operand where it lies; keys that do not overlap.
bool has_few_queries(const Op::In<ShapeOf>& in, const Op::Attrs&) {
  const auto keys_are_apart = [](const ShapeOf& x) {
    return !x.defined() || x.size(1) <= 1 || x.stride(1) >= x.size(3);
  };
  return in.q.size(2) / in.k.size(2) * in.q.size(1) < kFewRows && keys_are_apart(in.k) &&
         keys_are_apart(in.v) && keys_are_apart(in.k0) && keys_are_apart(in.v0);
}

template <class T>
void forward_few_queries(const Op::In<TensorView>& in, Op::Out<TensorView>& out,
                         const Op::Attrs& a) {
  report_form<Op>("blocks");
  const Call<T> call(in, a);
  keep_cache<T>(in, call.cached, in.k0, in.k, out.kT);
  keep_cache<T>(in, call.cached, in.v0, in.v, out.vT);
  FewQueries<T>(call, out).run();
}

template <class T>
void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
  report_form<Op>("blocks");
  using A = acc_t<T>;
  using O = operand_t<T>;
  const Call<T> call(in, a);
  const common::Result<T> o(out.o);
  A* const lse = out.lse.data<A>();
  const Index dk = call.dk, dv = call.dv, blocks = call.blocks();
  constexpr A kInf = std::numeric_limits<A>::infinity();
  keep_cache<T>(in, call.cached, in.k0, in.k, out.kT);
  keep_cache<T>(in, call.cached, in.v0, in.v, out.vT);
  parallel_for(call.batch * call.q_heads * blocks, 1, [&](Index first, Index last) {
    common::Scratch<O> operands(kBlock * (2 * dk + dv + kBlock));
    O *q = operands.take(kBlock * dk), *k = operands.take(kBlock * dk),
      *v = operands.take(kBlock * dv), *rounded = operands.take(kBlock * kBlock);
    common::Scratch<A> scratch(kBlock * (dv + kBlock + 2));
    A *y = scratch.take(kBlock * dv), *s = scratch.take(kBlock * kBlock),
      *top = scratch.take(kBlock), *sum = scratch.take(kBlock);
    std::vector<Range> ranges(kBlock);
    for (Index task = first; task < last; ++task) {
      const Index b = task / (call.q_heads * blocks), qh = task / blocks % call.q_heads,
                  h = qh / call.group;
      const Index t = task % blocks * kBlock, m = std::min(kBlock, call.queries - t);
      Index lo = call.keys, hi = 0;
      for (Index r = 0; r < m; ++r) {
        const Range g = ranges[r] = call.range(b, t + r);
        lo = std::min(lo, g.prefix > 0 ? g.from : g.lo);
        hi = std::max({hi, g.hi, g.prefix});
        top[r] = call.sink ? call.sink(qh) : -kInf;
        sum[r] = call.sink ? A(1) : A(0);
      }
      call.q.load(b, t, qh, m, dk, q);
      std::fill(y, y + m * dv, A(0));
      for (Index j = lo / kBlock * kBlock; j < hi; j += kBlock) {
        const Index n = std::min(kBlock, call.keys - j);
        if (call.hidden(ranges.data(), m, j, n)) {
          continue;
        }
        call.load_keys(call.k0, call.k, b, h, j, n, dk, k);
        call.load_keys(call.v0, call.v, b, h, j, n, dv, v);
        small_gemm<false, true, O>(m, n, dk, A(1), q, dk, k, dk, A(0), s, n);
        call.scores(qh, ranges.data(), t, m, j, n, s, nullptr);
        for (Index r = 0; r < m; ++r) {
          join(n, dv, s + r * n, top[r], sum[r], y + r * dv);
        }
        small_gemm<false, false, O>(m, dv, n, A(1), as_operand(m * n, s, rounded), n, v, dv, A(1),
                                    y, dv);
      }
      for (Index r = 0; r < m; ++r) {
        const A inverse = sum[r] > 0 ? A(1) / sum[r] : A(0);
        for (Index c = 0; c < dv; ++c) {
          y[r * dv + c] *= inverse;
        }
        lse[call.query(b, t + r, qh)] = sum[r] > 0 ? top[r] + std::log(sum[r]) : -kInf;
      }
      o.store(b, t, qh, m, dv, y);
    }
  });
}

/// What arrives and where it goes.
template <class T>
struct Gradients {
  using A = acc_t<T>;
  Gradients(const Call<T>& call, const Op::Out<TensorView>& out, const Op::Out<TensorView>& dout,
            Op::In<TensorView>& din)
      : go(dout.o),
        o(out.o),
        gkT(dout.kT),
        gvT(dout.vT),
        glse(dout.lse),
        lse(out.lse.data<A>()),
        kept(call.appended ? call.keys : call.a.kept(call.keys)),
        q(din.q),
        k(din.k),
        v(din.v),
        k0(din.k0),
        v0(din.v0),
        sink(common::elements<A>(din.sink)),
        bias(common::elements<A>(din.bias)) {}
  common::Operand<T> go, o, gkT, gvT;
  common::Operand<A> glse;
  const A* lse;
  Index kept;  ///< keys in the outgoing cache, with `used` those that it holds
  common::Result<T> q, k, v, k0, v0;
  A *sink, *bias;
};

/// Backward: one thread's buffers and what it does with them.
template <class T>
class KeyHead {
  using A = acc_t<T>;
  using O = operand_t<T>;

 public:
  KeyHead(const Call<T>& call, const Gradients<T>& grad)
      : call_(call),
        grad_(grad),
        operands_(call.keys * (dk_ + dv_) + call.queries * (dk_ + dv_) + kBlock * kBlock),
        scratch_(call.keys * (dk_ + dv_) + call.queries * (dk_ + 1) + kBlock * (3 * kBlock + dv_)),
        ranges_(call.queries) {}

  /// Key head h of row b: gradients of its keys and values and of all queries that read them.
  void run(Index b, Index h) {
    const Index keys = call_.keys;
    call_.load_keys(call_.k0, call_.k, b, h, 0, keys, dk_, k_);
    call_.load_keys(call_.v0, call_.v, b, h, 0, keys, dv_, v_);
    std::fill(gk_, gk_ + keys * dk_, A(0));
    std::fill(gv_, gv_ + keys * dv_, A(0));
    for (Index t = 0; t < call_.queries; ++t) {
      ranges_[t] = call_.range(b, t);
    }
    for (Index qh = h * call_.group; qh < (h + 1) * call_.group; ++qh) {
      load_query_head(b, qh);
      for (Index j = 0; j < keys; j += kBlock) {
        for (Index t = 0; t < call_.queries; t += kBlock) {
          add_block(b, qh, t, std::min(kBlock, call_.queries - t), j, std::min(kBlock, keys - j));
        }
      }
      grad_.q.store(b, 0, qh, call_.queries, dk_, gq_);
    }
    finish(b, h, grad_.gkT, grad_.k0, grad_.k, dk_, gk_);
    finish(b, h, grad_.gvT, grad_.v0, grad_.v, dv_, gv_);
  }

 private:
  /// q, gy, delta and the gradient of the sink.
  void load_query_head(Index b, Index qh) {
    const Index queries = call_.queries;
    call_.q.load(b, 0, qh, queries, dk_, q_);
    std::fill(gq_, gq_ + queries * dk_, A(0));
    if (grad_.go.defined()) {
      grad_.go.load(b, 0, qh, queries, dv_, gy_);
    } else {
      std::fill(gy_, gy_ + queries * dv_, O(A(0)));
    }
    for (Index t = 0; t < queries; t += kBlock) {
      const Index m = std::min(kBlock, queries - t);
      grad_.o.load(b, t, qh, m, dv_, y_);
      for (Index r = 0; r < m; ++r) {
        A dot = 0;
#pragma omp simd reduction(+ : dot)
        for (Index c = 0; c < dv_; ++c) {
          dot += y_[r * dv_ + c] * convert<A>(gy_[(t + r) * dv_ + c]);
        }
        delta_[t + r] = dot - (grad_.glse.defined() ? *grad_.glse.at(b, t + r, qh) : A(0));
      }
    }
    if (grad_.sink) {
      A sum = 0;
      for (Index t = 0; t < queries; ++t) {
        sum -= simd::exp(call_.sink(qh) - grad_.lse[call_.query(b, t, qh)]) * delta_[t];
      }
      grad_.sink[qh] += sum;
    }
  }

  /// m queries from t on and n keys from j on.
  void add_block(Index b, Index qh, Index t, Index m, Index j, Index n) {
    if (call_.hidden(ranges_.data() + t, m, j, n)) {
      return;
    }
    const bool capped = call_.a.softcap > 0;
    small_gemm<false, true, O>(m, n, dk_, A(1), q_ + t * dk_, dk_, k_ + j * dk_, dk_, A(0), p_, n);
    call_.scores(qh, ranges_.data() + t, t, m, j, n, p_, capped ? slope_ : nullptr);
    for (Index r = 0; r < m; ++r) {
      const A lse = grad_.lse[call_.query(b, t + r, qh)];
      A* __restrict row = p_ + r * n;
      if (std::isinf(lse)) {
        std::fill(row, row + n, A(0));
        continue;
      }
      for (Index c = 0; c < n; ++c) {
        row[c] = simd::exp(row[c] - lse);
      }
    }
    small_gemm<true, false, O>(n, dv_, m, A(1), as_operand(m * n, p_, rounded_), n, gy_ + t * dv_,
                               dv_, A(1), gv_ + j * dv_, dv_);
    small_gemm<false, true, O>(m, n, dv_, A(1), gy_ + t * dv_, dv_, v_ + j * dv_, dv_, A(0), s_, n);
    for (Index r = 0; r < m; ++r) {
      const A d = delta_[t + r];
      A* __restrict row = s_ + r * n;
      const A* __restrict prob = p_ + r * n;
      for (Index c = 0; c < n; ++c) {
        row[c] = prob[c] * (row[c] - d);
      }
      if (grad_.bias) {
        A* line = grad_.bias + (qh * call_.queries + t + r) * call_.keys + j;
        for (Index c = 0; c < n; ++c) {
          line[c] += row[c];
        }
      }
      if (capped) {
        for (Index c = 0; c < n; ++c) {
          row[c] *= slope_[r * n + c];
        }
      }
    }
    const A scale = A(call_.a.scale);
    const O* ds = as_operand(m * n, s_, rounded_);
    small_gemm<false, false, O>(m, dk_, n, scale, ds, n, k_ + j * dk_, dk_, A(1), gq_ + t * dk_,
                                dk_);
    small_gemm<true, false, O>(n, dk_, m, scale, ds, n, q_ + t * dk_, dk_, A(1), gk_ + j * dk_,
                               dk_);
  }

  /// Adds what arrives through the outgoing cache, whose rows are the last keys or values, and
  /// gives the sum [keys,d] to the cache and the call's own.
  void finish(Index b, Index h, const common::Operand<T>& through, const common::Result<T>& cache,
              const common::Result<T>& own, Index d, A* sum) const {
    if (through.defined()) {
      for (Index i = 0; i < grad_.kept; ++i) {
        const T* __restrict from = through.at(b, i, h);
        A* __restrict to = sum + (call_.keys - grad_.kept + i) * d;
        for (Index c = 0; c < d; ++c) {
          to[c] += convert<A>(from[c]);
        }
      }
    }
    cache.store(b, 0, h, call_.cached, d, sum);
    for (Index i = call_.cached; cache.defined() && i < call_.rows; ++i) {
      T* const to = cache.at(b, i, h);
      if (through.defined() && i >= call_.keys) {
        std::copy_n(through.at(b, i, h), d, to);
      } else {
        std::fill_n(to, d, T(0.0f));
      }
    }
    own.store(b, 0, h, call_.keys - call_.cached, d, sum + call_.cached * d);
  }

  const Call<T>& call_;
  const Gradients<T>& grad_;
  const Index dk_ = call_.dk, dv_ = call_.dv;
  common::Scratch<O> operands_;
  common::Scratch<A> scratch_;
  O *k_ = operands_.take(call_.keys * dk_), *v_ = operands_.take(call_.keys * dv_),
    *q_ = operands_.take(call_.queries * dk_), *gy_ = operands_.take(call_.queries * dv_),
    *rounded_ = operands_.take(kBlock * kBlock);
  A *gk_ = scratch_.take(call_.keys * dk_), *gv_ = scratch_.take(call_.keys * dv_),
    *gq_ = scratch_.take(call_.queries * dk_), *delta_ = scratch_.take(call_.queries),
    *s_ = scratch_.take(kBlock * kBlock), *p_ = scratch_.take(kBlock * kBlock),
    *slope_ = scratch_.take(kBlock * kBlock), *y_ = scratch_.take(kBlock * dv_);
  std::vector<Range> ranges_;
};

template <class T>
void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
              const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs& a) {
  const Call<T> call(in, a);
  for (TensorView* sum : {&din.sink, &din.bias}) {
    if (sum->defined()) {
      common::zeroed(*sum);
    }
  }
  const Gradients<T> grad(call, out, dout, din);
  const bool one_owner = grad.sink || grad.bias;  // of sums over the batch
  const Index rows = one_owner ? 1 : call.batch, rows_of_task = one_owner ? call.batch : 1;
  parallel_for(rows * call.heads, 1, [&](Index first, Index last) {
    KeyHead<T> head(call, grad);
    for (Index task = first; task < last; ++task) {
      for (Index i = 0; i < rows_of_task; ++i) {
        head.run(task / call.heads + i, task % call.heads);
      }
    }
  });
}

constexpr const char* kRead = "q k v k0 v0 o kT vT";
LS_KERNEL(Attention)
    .named("few queries")
    .reads(kRead, lies::heads)
    .strided_grad("q k v")
    .when(&has_few_queries)
    .types<double, float, bf16>([]<class T>() {
      return std::pair(&forward_few_queries<T>, &backward<T>);
    });
LS_KERNEL(Attention)
    .named("blocks")
    .reads(kRead, lies::heads)
    .strided_grad("q k v")
    .types<double, float, bf16>([]<class T>() { return std::pair(&forward<T>, &backward<T>); });

}  // namespace
}  // namespace ls::ops
