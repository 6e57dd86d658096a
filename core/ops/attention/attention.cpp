#include "core/ops/attention/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/ops/attention/attention_cache.h"
#include "core/ops/common/reference.h"
#include "core/ops/common/sequences.h"

namespace ls::ops {
namespace {

using Op = Attention;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs& a, Bindings& b) {
  LS_CHECK(in.k.size(2) > 0 && in.q.size(2) % in.k.size(2) == 0, kShape,
           "attention: q and k: {} query heads are not a multiple of {} key heads", in.q.size(2),
           in.k.size(2));
  LS_CHECK(in.k0.defined() == in.v0.defined(), kShape, "attention: give both k0 and v0 or neither");
  LS_CHECK(!in.offsets.defined() ||
               (in.q.size(0) == 1 && in.q.size(1) == in.k.size(1) && !in.k0.defined()),
           kShape, "attention: offsets need one batch row, as many queries as keys, and no cache");
  const bool appended = in.used.defined();
  LS_CHECK(!appended || (in.k0.defined() && !in.bias.defined() && in.k0.size(1) >= in.k.size(1)),
           kShape, "attention: used needs k0 and v0 with room for {} keys, and no bias",
           in.k.size(1));
  const Index keys = in.k.size(1) + (in.k0.defined() ? in.k0.size(1) : 0);
  LS_CHECK(!in.bias.defined() || in.bias.size(2) == keys, kShape,
           "attention: bias {} is for {} keys, k0 and k have {}", in.bias.describe(),
           in.bias.defined() ? in.bias.size(2) : 0, keys);
  b.set("T1", appended ? in.k0.size(1) : a.kept(keys));
}

/// Every query over every key.
template <class Real>
struct Reference {
  /// Keys or values, those of the cache first, by (row, key, head, channel); behind them the room
  /// of the cache.
  template <class T>
  struct Joined {
    template <class Given>
    Joined(Given& first, Given& own, Index cached)
        : cache(first), own(own), cached(cached), keys(cached + own.size(1)) {}
    T& operator()(Index b, Index j, Index h, Index c) const {
      return j < cached || j >= keys ? cache(b, j, h, c) : own(b, j - cached, h, c);
    }
    View<T, 4> cache, own;
    Index cached, keys;
  };

  struct Call {
    Call(const Op::In<TensorView>& in, const Op::Attrs& attrs)
        : a(attrs),
          q(in.q),
          appended(in.used.defined()),
          k(in.k0, in.k, common::cached_keys(in)),
          v(in.v0, in.v, k.cached),
          sink(in.sink),
          slopes(in.slopes),
          bias(in.bias),
          batch(q.size(0)),
          queries(q.size(1)),
          q_heads(q.size(2)),
          group(q_heads / in.k.size(2)),
          dk(q.size(3)),
          dv(in.v.size(3)),
          keys(k.keys),
          first(batch, queries),
          end(batch, queries) {
      const View<const std::int64_t, 2> start(checked_starts("attention", in.start, in.k.size(1)));
      for (Index b = 0; b < batch; ++b) {
        for (Index t = 0; t < queries; ++t) {
          first(b, t) = start ? k.cached + start(b, t) : 0;
          end(b, t) = keys;
        }
      }
      for (const common::Sequence& s :
           common::sequences(in.offsets.defined() ? 1 : 0, queries, in.offsets, "attention")) {
        for (Index t = s.begin; t < s.begin + s.length; ++t) {
          first(0, t) = s.begin;
          end(0, t) = s.begin + s.length;
        }
      }
    }
    /// Where element i of an outgoing cache of n rows stands among the keys.
    Index kept(Index i, Index n) const { return appended ? i : keys - n + i; }
    Index position(Index t) const { return t + k.cached + a.q_offset; }
    bool visible(Index b, Index t, Index j) const {
      const bool not_later = !a.causal || j <= position(t);
      const bool near = a.window == 0 || position(t) - j < a.window;
      return first(b, t) <= j && j < end(b, t) && (j < a.prefix || (not_later && near));
    }
    /// Of one query: the logits, -inf where a key is hidden, the slope of each in scale q k, and
    /// the probabilities.
    struct Row {
      explicit Row(Index keys) : s(keys), slope(keys), p(keys) {}
      Buffer<Real> s, slope, p;
      Real lse = 0;  ///< of the logits and the sink, -inf when there are none
    };
    Row row(Index b, Index t, Index h) const {
      constexpr Real kHidden = -std::numeric_limits<Real>::infinity();
      Row row(keys);
      Real top = sink ? sink(h) : kHidden;
      for (Index j = 0; j < keys; ++j) {
        row.s(j) = visible(b, t, j) ? logit(b, t, h, j, row.slope(j)) : kHidden;
        top = std::max(top, row.s(j));
      }
      if (std::isinf(top)) {
        row.lse = top;
        return row;
      }
      Real sum = 0;
      for (Index j = 0; j < keys; ++j) {
        sum += std::exp(row.s(j) - top);
      }
      row.lse = top + std::log(sink ? sum + std::exp(sink(h) - top) : sum);
      for (Index j = 0; j < keys; ++j) {
        row.p(j) = std::exp(row.s(j) - row.lse);
      }
      return row;
    }
    Real logit(Index b, Index t, Index h, Index j, Real& slope) const {
      Real x = 0;
      for (Index c = 0; c < dk; ++c) {
        x += Real(a.scale) * q(b, t, h, c) * k(b, j, h / group, c);
      }
      slope = 1;
      if (const Real cap = Real(a.softcap); cap > 0) {
        const Real u = std::tanh(x / cap);
        slope = 1 - u * u;
        x = cap * u;
      }
      return x - common::or_zero(slopes, h) * Real(position(t) - j) +
             common::or_zero(bias, h, t, j);
    }
    const Op::Attrs& a;
    View<const Real, 4> q;
    bool appended;
    Joined<const Real> k, v;
    View<const Real, 1> sink, slopes;
    View<const Real, 3> bias;
    Index batch, queries, q_heads, group, dk, dv, keys;
    Buffer<Index, 2> first, end;  ///< keys of the query's document
  };
  /// f(b, i, j, h, c): element of the outgoing cache at i, and its place j among the keys.
  template <class F>
  static void for_kept(const View<const Real, 4>& cache, const Call& call, F&& f) {
    for (Index b = 0; b < cache.size(0); ++b) {
      for (Index i = 0; i < cache.size(1); ++i) {
        for (Index h = 0; h < cache.size(2); ++h) {
          for (Index c = 0; c < cache.size(3); ++c) {
            f(b, i, call.kept(i, cache.size(1)), h, c);
          }
        }
      }
    }
  }

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Call call(in, a);
    const View<Real, 4> o(common::zeroed(out.o)), kT(out.kT), vT(out.vT);
    const View<Real, 3> lse(out.lse);
    for (Index b = 0; b < call.batch; ++b) {
      for (Index t = 0; t < call.queries; ++t) {
        for (Index h = 0; h < call.q_heads; ++h) {
          const auto row = call.row(b, t, h);
          lse(b, t, h) = row.lse;
          for (Index j = 0; j < call.keys; ++j) {
            for (Index c = 0; c < call.dv; ++c) {
              o(b, t, h, c) += row.p(j) * call.v(b, j, h / call.group, c);
            }
          }
        }
      }
    }
    for_kept(View<const Real, 4>(out.kT), call, [&](Index b, Index i, Index j, Index h, Index c) {
      kT(b, i, h, c) = call.k(b, j, h, c);
    });
    for_kept(View<const Real, 4>(out.vT), call, [&](Index b, Index i, Index j, Index h, Index c) {
      vT(b, i, h, c) = call.v(b, j, h, c);
    });
  }

  // With p = softmax(s): ds_j = p_j (dp_j - sum_i p_i dp_i + dlse), dp_j = do v_j; the sink is one
  // more logit, whose value is 0.
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Call call(in, a);
    const View<const Real, 4> go(dout.o), gkT(dout.kT), gvT(dout.vT);
    const View<const Real, 3> glse(dout.lse);
    auto d = common::zero_gradients(in, din);
    const View<Real, 4> gq(d.q);
    const Joined<Real> gk(d.k0, d.k, call.k.cached), gv(d.v0, d.v, call.k.cached);
    const View<Real, 3> gbias(d.bias);
    const View<Real, 1> gsink(d.sink);
    for (Index b = 0; b < call.batch; ++b) {
      for (Index t = 0; t < call.queries; ++t) {
        for (Index h = 0; h < call.q_heads; ++h) {
          const auto row = call.row(b, t, h);
          const Index kh = h / call.group;
          const Real dlse = common::or_zero(glse, b, t, h);
          Buffer<Real> dp(call.keys);
          Real mean = 0;
          for (Index j = 0; j < call.keys; ++j) {
            for (Index c = 0; c < call.dv; ++c) {
              const Real dy = common::or_zero(go, b, t, h, c);
              dp(j) += dy * call.v(b, j, kh, c);
              gv(b, j, kh, c) += row.p(j) * dy;
            }
            mean += row.p(j) * dp(j);
          }
          if (gsink) {
            gsink(h) += std::exp(call.sink(h) - row.lse) * (dlse - mean);
          }
          for (Index j = 0; j < call.keys; ++j) {
            const Real ds = row.p(j) * (dp(j) - mean + dlse);
            if (gbias) {
              gbias(h, t, j) += ds;
            }
            const Real dx = ds * row.slope(j) * Real(a.scale);
            for (Index c = 0; c < call.dk; ++c) {
              gq(b, t, h, c) += dx * call.k(b, j, kh, c);
              gk(b, j, kh, c) += dx * call.q(b, t, h, c);
            }
          }
        }
      }
    }
    for_kept(gkT, call, [&](Index b, Index i, Index j, Index h, Index c) {
      gk(b, j, h, c) += gkT(b, i, h, c);
    });
    for_kept(gvT, call, [&](Index b, Index i, Index j, Index h, Index c) {
      gv(b, j, h, c) += gvT(b, i, h, c);
    });
  }
};

Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs& a) {
  const double cached = in.k0.defined() ? in.k0.size(1) : 0;
  double seen = cached + (a.causal ? 0.5 : 1.0) * in.k.size(1);  // by a query
  seen = a.window > 0 ? std::min<double>(seen, a.window) : seen;
  const double pairs = seen * in.q.size(0) * in.q.size(2) * in.q.size(1);
  const double cache = in.k0.defined() ? in.k0.bytes() + in.v0.bytes() : 0;
  return {.bytes = 2.0 * in.q.bytes() + in.k.bytes() + in.v.bytes() + cache,
          .flops = 2 * pairs * (in.q.size(3) + in.v.size(3))};
}

LS_OP(Attention, "attention",
      "softmax attention in blocks: grouped queries, window, cap, sink, packed documents, cache")
    .in("q[B,T,HQ,Dk] k[B,Tk,H,Dk] v[B,Tk,H,Dv] k0[B,T0,H,Dk]? v0[B,T0,H,Dv]? start[B,T]:i64? "
        "sink[HQ]:acc? slopes[HQ]:acc? bias[HQ,T,Ta]:acc? offsets[N1]:i64? "
        "used[]:i64?")
    .out("o[B,T,HQ,Dv] lse[B,T,HQ]:acc kT[B,T1,H,Dk] vT[B,T1,H,Dv]")
    .saves("q k v k0 v0 start sink slopes bias offsets used o lse")
    .no_grad("slopes")
    .continues("k0", "k", "kT")
    .continues("v0", "v", "vT")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
