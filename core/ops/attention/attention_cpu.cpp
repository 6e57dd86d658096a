// Forward: one task is a block of queries of one head; key blocks pass by with a running maximum
// and sum. Backward: one task is a key head of one row; probabilities are made again from lse.
#include "core/ops/attention/attention.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/backend/cpu/simd_math.h"
#include "core/backend/cpu/small_gemm.h"
#include "core/op/report.h"
#include "core/ops/common/sequences.h"

namespace ls::ops {
namespace {

using Op = Attention;
constexpr Index kBlock = 64;

/// Keys that a query may see: [lo, hi) and [from, prefix), of all keys with the cache in front.
struct Range {
  Index lo, hi, from, prefix;
};

template <class T>
struct Call {
  using A = acc_t<T>;
  const Op::In<Tensor>& in;
  const Op::Attrs& a;
  Index batch, queries, keys, cached, q_heads, heads, group, dk, dv;
  common::Operand<T> q, k, v, k0, v0;
  Tensor start, sink, slopes, bias;
  std::vector<std::int64_t> document;  // first token of each token's document

  Call(const Op::In<Tensor>& i, const Op::Attrs& attrs)
      : in(i),
        a(attrs),
        batch(i.q.size(0)),
        queries(i.q.size(1)),
        keys(i.k.size(1) + (i.k0.defined() ? i.k0.size(1) : 0)),
        cached(i.k0.defined() ? i.k0.size(1) : 0),
        q_heads(i.q.size(2)),
        heads(i.k.size(2)),
        group(q_heads / heads),
        dk(i.q.size(3)),
        dv(i.v.size(3)),
        q(i.q),
        k(i.k),
        v(i.v),
        k0(i.k0),
        v0(i.v0) {
    const auto whole = [](const Tensor& t) { return t.defined() ? t.contiguous() : Tensor(); };
    start = whole(i.start);
    sink = whole(i.sink);
    slopes = whole(i.slopes);
    bias = whole(i.bias);
    for (const common::Sequence& s :
         common::sequences(i.offsets.defined() ? 1 : 0, queries, i.offsets, "attention")) {
      document.insert(document.end(), static_cast<std::size_t>(s.length), s.begin);
    }
  }
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
    if (start.defined()) {
      first = cached + std::as_const(start).template data<std::int64_t>()[b * queries + t];
    } else if (!document.empty()) {
      first = document[static_cast<std::size_t>(t)];
      if (!a.causal || a.prefix > 0) {  // a document sees itself only
        end = t;
        while (end < queries && document[static_cast<std::size_t>(end)] == first) {
          ++end;
        }
      }
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
  /// Scores of a block: capped, biased, -inf where hidden. `slope` keeps the derivative of the cap
  /// when asked.
  void scores(Index b, Index qh, const Range* ranges, Index t, Index m, Index j, Index n, A* s,
              A* slope) const {
    const A scale = static_cast<A>(a.scale), cap = static_cast<A>(a.softcap);
    const A decline = slopes.defined() ? std::as_const(slopes).template data<A>()[qh] : A(0);
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
      if (slopes.defined()) {
        for (Index c = 0; c < n; ++c) {
          row[c] -= decline * static_cast<A>(position(t + r) - (j + c));
        }
      }
      if (bias.defined()) {
        const A* line = std::as_const(bias).template data<A>() + (qh * queries + t + r) * keys + j;
        for (Index c = 0; c < n; ++c) {
          row[c] += line[c];
        }
      }
      const Range& g = ranges[r];
      if (g.lo > j || g.hi < j + n) {
        for (Index c = 0; c < n; ++c) {
          const Index key = j + c;
          if (!((key >= g.lo && key < g.hi) || (key >= g.from && key < g.prefix))) {
            row[c] = -std::numeric_limits<A>::infinity();
          }
        }
      }
    }
    (void)b;
  }
  bool skip(const Range* ranges, Index m, Index j, Index n) const {
    for (Index r = 0; r < m; ++r) {
      if ((ranges[r].lo < j + n && ranges[r].hi > j) ||
          (ranges[r].from < j + n && ranges[r].prefix > j)) {
        return false;
      }
    }
    return true;
  }
};

template <class T>
void keep_cache(const Tensor& old, const Tensor& fresh, Tensor& out) {
  const Index total = (old.defined() ? old.size(1) : 0) + fresh.size(1), n = out.size(1),
              from_old = old.defined() ? old.size(1) : 0;
  const Index first = total - n;
  if (first < from_old) {
    out.slice(1, 0, from_old - first).copy_(old.slice(1, first, from_old));
  }
  const Index done = std::max<Index>(0, from_old - first),
              skip = std::max<Index>(0, first - from_old);
  out.slice(1, done, n).copy_(fresh.slice(1, skip, fresh.size(1)));
}

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

template <class T>
void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
  report_form<Op>("blocks");
  using A = acc_t<T>;
  using O = operand_t<T>;
  const Call<T> call(in, a);
  const common::Result<T> o(out.o);
  A* lse = out.lse.data<A>();
  const Index dk = call.dk, dv = call.dv, blocks = (call.queries + kBlock - 1) / kBlock;
  constexpr A kInf = std::numeric_limits<A>::infinity();
  keep_cache<T>(in.k0, in.k, out.kT);
  keep_cache<T>(in.v0, in.v, out.vT);
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
        ranges[static_cast<std::size_t>(r)] = call.range(b, t + r);
        const Range& g = ranges[static_cast<std::size_t>(r)];
        lo = std::min(lo, g.prefix > 0 ? g.from : g.lo);
        hi = std::max({hi, g.hi, g.prefix});
        top[r] = call.sink.defined() ? std::as_const(call.sink).template data<A>()[qh] : -kInf;
        sum[r] = call.sink.defined() ? A(1) : A(0);
      }
      call.q.load(b, t, qh, m, dk, q);
      std::fill(y, y + m * dv, A(0));
      for (Index j = lo / kBlock * kBlock; j < hi; j += kBlock) {
        const Index n = std::min(kBlock, call.keys - j);
        if (call.skip(ranges.data(), m, j, n)) {
          continue;
        }
        call.load_keys(call.k0, call.k, b, h, j, n, dk, k);
        call.load_keys(call.v0, call.v, b, h, j, n, dv, v);
        small_gemm<false, true, O>(m, n, dk, A(1), q, dk, k, dk, A(0), s, n);
        call.scores(b, qh, ranges.data(), t, m, j, n, s, nullptr);
        for (Index r = 0; r < m; ++r) {
          A* __restrict row = s + r * n;
          A peak = top[r];
#pragma omp simd reduction(max : peak)
          for (Index c = 0; c < n; ++c) {
            peak = row[c] > peak ? row[c] : peak;
          }
          if (peak == -kInf) {
            std::fill(row, row + n, A(0));
            continue;
          }
          const A keep = simd::exp(top[r] - peak);
          A added = 0;
#pragma omp simd reduction(+ : added)
          for (Index c = 0; c < n; ++c) {
            row[c] = simd::exp(row[c] - peak);
            added += row[c];
          }
          sum[r] = sum[r] * keep + added;
          top[r] = peak;
          if (keep != A(1)) {
            for (Index c = 0; c < dv; ++c) {
              y[r * dv + c] *= keep;
            }
          }
        }
        small_gemm<false, false, O>(m, dv, n, A(1), as_operand(m * n, s, rounded), n, v, dv, A(1),
                                    y, dv);
      }
      for (Index r = 0; r < m; ++r) {
        const A inverse = sum[r] > 0 ? A(1) / sum[r] : A(0);
        for (Index c = 0; c < dv; ++c) {
          y[r * dv + c] *= inverse;
        }
        lse[(b * call.queries + t + r) * call.q_heads + qh] =
            sum[r] > 0 ? top[r] + std::log(sum[r]) : -kInf;
      }
      o.store(b, t, qh, m, dv, y);
    }
  });
}

template <class T>
void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>& out, const Op::Out<Tensor>& dout,
              Op::In<Tensor>& din, const Op::Attrs& a) {
  using A = acc_t<T>;
  using O = operand_t<T>;
  const Call<T> call(in, a);
  const common::Operand<T> go(dout.o), y_op(out.o);
  const common::Operand<A> glse(dout.lse, true);
  const common::Result<T> dq(din.q), dk_own(din.k), dv_own(din.v), dk_old(din.k0), dv_old(din.v0);
  const A* lse = out.lse.data<A>();
  const Index dk = call.dk, dv = call.dv, blocks = (call.queries + kBlock - 1) / kBlock;
  const Index key_blocks = (call.keys + kBlock - 1) / kBlock;
  const Index kept_keys = a.kept(call.keys);
  if (din.bias.defined()) {
    din.bias.zero_();
  }
  // Sums over the batch have one owner: a task is a key head with all its rows when sink or bias
  // ask for it.
  const bool shared = din.sink.defined() || din.bias.defined();
  if (din.sink.defined()) {
    din.sink.zero_();
  }
  const Tensor gkT = dout.kT.defined() ? dout.kT.contiguous() : Tensor(),
               gvT = dout.vT.defined() ? dout.vT.contiguous() : Tensor();
  parallel_for(shared ? call.heads : call.batch * call.heads, 1, [&](Index first, Index last) {
    common::Scratch<O> operands(call.keys * (dk + dv) + call.queries * (dk + dv) + kBlock * kBlock);
    O *k = operands.take(call.keys * dk), *v = operands.take(call.keys * dv);
    O *q = operands.take(call.queries * dk), *gy = operands.take(call.queries * dv),
      *rounded = operands.take(kBlock * kBlock);
    common::Scratch<A> scratch(call.keys * (dk + dv) + call.queries * (dk + 1) +
                               kBlock * (3 * kBlock + dv));
    A *gk = scratch.take(call.keys * dk), *gv = scratch.take(call.keys * dv),
      *gq = scratch.take(call.queries * dk), *delta = scratch.take(call.queries);
    A *s = scratch.take(kBlock * kBlock), *p = scratch.take(kBlock * kBlock),
      *slope = scratch.take(kBlock * kBlock), *y = scratch.take(kBlock * dv);
    std::vector<Range> ranges(static_cast<std::size_t>(call.queries));
    for (Index task = first; task < last; ++task) {
      const Index h = task % call.heads;
      for (Index b = shared ? 0 : task / call.heads;
           b < (shared ? call.batch : task / call.heads + 1); ++b) {
        call.load_keys(call.k0, call.k, b, h, 0, call.keys, dk, k);
        call.load_keys(call.v0, call.v, b, h, 0, call.keys, dv, v);
        std::fill(gk, gk + call.keys * dk, A(0));
        std::fill(gv, gv + call.keys * dv, A(0));
        for (Index t = 0; t < call.queries; ++t) {
          ranges[static_cast<std::size_t>(t)] = call.range(b, t);
        }
        for (Index qh = h * call.group; qh < (h + 1) * call.group; ++qh) {
          call.q.load(b, 0, qh, call.queries, dk, q);
          std::fill(gq, gq + call.queries * dk, A(0));
          if (go.defined()) {
            go.load(b, 0, qh, call.queries, dv, gy);
          } else {
            std::fill(gy, gy + call.queries * dv, O(A(0)));
          }
          for (Index t = 0; t < call.queries; t += kBlock) {
            const Index m = std::min(kBlock, call.queries - t);
            y_op.load(b, t, qh, m, dv, y);
            for (Index r = 0; r < m; ++r) {
              A dot = 0;
#pragma omp simd reduction(+ : dot)
              for (Index c = 0; c < dv; ++c) {
                dot += y[r * dv + c] * convert<A>(gy[(t + r) * dv + c]);
              }
              delta[t + r] = dot - (glse.defined() ? *glse.at(b, t + r, qh) : A(0));
            }
          }
          if (din.sink.defined()) {
            A sum = 0;
            const A logit = std::as_const(call.sink).template data<A>()[qh];
            for (Index t = 0; t < call.queries; ++t) {
              sum -= simd::exp(logit - lse[(b * call.queries + t) * call.q_heads + qh]) * delta[t];
            }
            din.sink.data<A>()[qh] += sum;
          }
          for (Index kb = 0; kb < key_blocks; ++kb) {
            const Index j = kb * kBlock, n = std::min(kBlock, call.keys - j);
            for (Index qb = 0; qb < blocks; ++qb) {
              const Index t = qb * kBlock, m = std::min(kBlock, call.queries - t);
              if (call.skip(ranges.data() + t, m, j, n)) {
                continue;
              }
              small_gemm<false, true, O>(m, n, dk, A(1), q + t * dk, dk, k + j * dk, dk, A(0), p,
                                         n);
              call.scores(b, qh, ranges.data() + t, t, m, j, n, p, a.softcap > 0 ? slope : nullptr);
              for (Index r = 0; r < m; ++r) {
                const A l = lse[(b * call.queries + t + r) * call.q_heads + qh];
                A* __restrict row = p + r * n;
                if (std::isinf(l)) {
                  std::fill(row, row + n, A(0));
                  continue;
                }
                for (Index c = 0; c < n; ++c) {
                  row[c] = simd::exp(row[c] - l);
                }
              }
              small_gemm<true, false, O>(n, dv, m, A(1), as_operand(m * n, p, rounded), n,
                                         gy + t * dv, dv, A(1), gv + j * dv, dv);
              small_gemm<false, true, O>(m, n, dv, A(1), gy + t * dv, dv, v + j * dv, dv, A(0), s,
                                         n);
              for (Index r = 0; r < m; ++r) {
                const A d = delta[t + r];
                A* __restrict row = s + r * n;
                const A* __restrict prob = p + r * n;
                for (Index c = 0; c < n; ++c) {
                  row[c] = prob[c] * (row[c] - d);
                }
                if (din.bias.defined()) {
                  A* line = din.bias.data<A>() + (qh * call.queries + t + r) * call.keys + j;
                  for (Index c = 0; c < n; ++c) {
                    line[c] += row[c];
                  }
                }
                if (a.softcap > 0) {
                  for (Index c = 0; c < n; ++c) {
                    row[c] *= slope[r * n + c];
                  }
                }
              }
              const A scale = static_cast<A>(a.scale);
              const O* ds = as_operand(m * n, s, rounded);
              small_gemm<false, false, O>(m, dk, n, scale, ds, n, k + j * dk, dk, A(1), gq + t * dk,
                                          dk);
              small_gemm<true, false, O>(n, dk, m, scale, ds, n, q + t * dk, dk, A(1), gk + j * dk,
                                         dk);
            }
          }
          if (dq.defined()) {
            dq.store(b, 0, qh, call.queries, dk, gq);
          }
        }
        // The cache that goes out is these keys and values.
        const auto add_kept = [&](const Tensor& g, Index d, A* to) {
          for (Index i = 0; g.defined() && i < kept_keys; ++i) {
            const T* from = g.data<T>() + ((b * kept_keys + i) * call.heads + h) * d;
            for (Index c = 0; c < d; ++c) {
              to[(call.keys - kept_keys + i) * d + c] += convert<A>(from[c]);
            }
          }
        };
        add_kept(gkT, dk, gk);
        add_kept(gvT, dv, gv);
        const auto give = [&](const common::Result<T>& old, const common::Result<T>& own, Index d,
                              const A* from) {
          if (old.defined()) {
            old.store(b, 0, h, call.cached, d, from);
          }
          if (own.defined()) {
            own.store(b, 0, h, call.keys - call.cached, d, from + call.cached * d);
          }
        };
        give(dk_old, dk_own, dk, gk);
        give(dv_old, dv_own, dv, gv);
      }
    }
  });
}

LS_KERNEL(Attention).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
