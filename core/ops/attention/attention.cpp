#include "core/ops/attention/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/ops/common/sequences.h"

namespace ls::ops {
namespace {

using Op = Attention;

void bind(const Op::In<Tensor>& in, const Op::Attrs& a, Bindings& b) {
  LS_CHECK(in.k.size(2) > 0 && in.q.size(2) % in.k.size(2) == 0, kShape,
           "attention: q and k: {} query heads are not a multiple of {} key heads", in.q.size(2),
           in.k.size(2));
  LS_CHECK(in.k0.defined() == in.v0.defined(), kShape, "attention: give both k0 and v0 or neither");
  LS_CHECK(!in.offsets.defined() ||
               (in.q.size(0) == 1 && in.q.size(1) == in.k.size(1) && !in.k0.defined()),
           kShape, "attention: offsets need one batch row, as many queries as keys, and no cache");
  const Index keys = in.k.size(1) + (in.k0.defined() ? in.k0.size(1) : 0);
  LS_CHECK(!in.bias.defined() || in.bias.size(2) == keys, kShape,
           "attention: bias {} is for {} keys, k0 and k have {}", in.bias.describe(),
           in.bias.defined() ? in.bias.size(2) : 0, keys);
  b.set("T1", a.kept(keys));
}

/// Every query over every key.
template <class Real>
struct Reference {
  using Vector = std::vector<Real>;

  /// Keys are those of the cache and then the call's own.
  struct Call {
    const Op::In<Tensor>& in;
    const Op::Attrs& a;
    Index batch, queries, cached, keys, q_heads, heads, dk, dv;
    Vector q, k, v;
    std::vector<std::int64_t> first, end;  ///< keys of the query's document, [B,T]

    Call(const Op::In<Tensor>& i, const Op::Attrs& attrs)
        : in(i),
          a(attrs),
          batch(i.q.size(0)),
          queries(i.q.size(1)),
          cached(i.k0.defined() ? i.k0.size(1) : 0),
          keys(cached + i.k.size(1)),
          q_heads(i.q.size(2)),
          heads(i.k.size(2)),
          dk(i.q.size(3)),
          dv(i.v.size(3)),
          q(i.q.to_vector<Real>()),
          k(joined(i.k0, i.k)),
          v(joined(i.v0, i.v)),
          first(static_cast<std::size_t>(batch * queries), 0),
          end(first.size(), keys) {
      for (Index t = 0; i.start.defined() && t < batch * queries; ++t) {
        first[static_cast<std::size_t>(t)] = cached + static_cast<Index>(i.start.at(t));
      }
      for (const common::Sequence& s :
           common::sequences(i.offsets.defined() ? 1 : 0, queries, i.offsets, "attention")) {
        for (Index t = s.begin; t < s.begin + s.length; ++t) {
          first[static_cast<std::size_t>(t)] = s.begin;
          end[static_cast<std::size_t>(t)] = s.begin + s.length;
        }
      }
    }
    /// [B, T0 + T, H, D].
    Vector joined(const Tensor& cache, const Tensor& own) const {
      Vector all;
      for (Index b = 0; b < batch; ++b) {
        for (const Tensor& part : {cache, own}) {
          if (part.defined()) {
            const Vector row = part.select(0, b).to_vector<Real>();
            all.insert(all.end(), row.begin(), row.end());
          }
        }
      }
      return all;
    }
    /// The inverse, into those parts that are wanted.
    void part(const Vector& all, Index width, Tensor& cache, Tensor& own) const {
      for (std::size_t i = 0; i < all.size(); ++i) {
        const Index at = static_cast<Index>(i) / width, b = at / keys, j = at % keys,
                    e = static_cast<Index>(i) % width;
        Tensor& to = j < cached ? cache : own;
        if (to.defined()) {
          const Index rows = j < cached ? cached : keys - cached;
          to.data<Real>()[(b * rows + (j < cached ? j : j - cached)) * width + e] = all[i];
        }
      }
    }
    std::size_t query(Index b, Index t, Index h) const {
      return static_cast<std::size_t>((b * queries + t) * q_heads + h);
    }
    /// Key j as query head h reads it.
    std::size_t key(Index b, Index j, Index h) const {
      return static_cast<std::size_t>((b * keys + j) * heads + h / (q_heads / heads));
    }
    std::size_t pair(Index h, Index t, Index j) const {
      return static_cast<std::size_t>((h * queries + t) * keys + j);
    }
    Index position(Index t) const { return t + cached + a.q_offset; }
    bool visible(Index b, Index t, Index j) const {
      const auto at = static_cast<std::size_t>(b * queries + t);
      const bool not_later = !a.causal || j <= position(t);
      const bool near = a.window == 0 || position(t) - j < a.window;
      return first[at] <= j && j < end[at] && (j < a.prefix || (not_later && near));
    }
    /// The logits of a query, -inf where a key is hidden; `slope` of each in scale q k.
    Vector logits(Index b, Index t, Index h, Vector& slope) const {
      Vector s(static_cast<std::size_t>(keys), -std::numeric_limits<Real>::infinity());
      slope.assign(s.size(), Real(1));
      for (Index j = 0; j < keys; ++j) {
        if (!visible(b, t, j)) {
          continue;
        }
        const Real* qp = q.data() + query(b, t, h) * static_cast<std::size_t>(dk);
        const Real* kp = k.data() + key(b, j, h) * static_cast<std::size_t>(dk);
        Real x = 0;
        for (Index c = 0; c < dk; ++c) {
          x += static_cast<Real>(a.scale) * qp[c] * kp[c];
        }
        if (const Real cap = static_cast<Real>(a.softcap); cap > 0) {
          const Real u = std::tanh(x / cap);
          slope[static_cast<std::size_t>(j)] = 1 - u * u;
          x = cap * u;
        }
        if (in.slopes.defined()) {
          x -= static_cast<Real>(in.slopes.at(h)) * static_cast<Real>(position(t) - j);
        }
        if (in.bias.defined()) {
          x += static_cast<Real>(in.bias.at(static_cast<Index>(pair(h, t, j))));
        }
        s[static_cast<std::size_t>(j)] = x;
      }
      return s;
    }
    /// log sum exp of the logits and the sink, -inf when there are none.
    Real lse(const Vector& s, Index h) const {
      Vector all = s;
      if (in.sink.defined()) {
        all.push_back(static_cast<Real>(in.sink.at(h)));
      }
      Real top = -std::numeric_limits<Real>::infinity(), sum = 0;
      for (const Real x : all) {
        top = std::max(top, x);
      }
      if (std::isinf(top)) {
        return top;
      }
      for (const Real x : all) {
        sum += std::exp(x - top);
      }
      return top + std::log(sum);
    }
  };
  /// 0 for a hidden key, also of a query that sees nothing.
  static Real probability(Real logit, Real lse) {
    return std::isinf(logit) ? Real(0) : std::exp(logit - lse);
  }

  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    const Call call(in, a);
    Vector slope;
    Real* o = out.o.zero_().data<Real>();
    for (Index b = 0; b < call.batch; ++b) {
      for (Index t = 0; t < call.queries; ++t) {
        for (Index h = 0; h < call.q_heads; ++h, o += call.dv) {
          const Vector s = call.logits(b, t, h, slope);
          const Real lse = call.lse(s, h);
          out.lse.data<Real>()[call.query(b, t, h)] = lse;
          for (Index j = 0; j < call.keys; ++j) {
            const Real p = probability(s[static_cast<std::size_t>(j)], lse);
            const Real* v = call.v.data() + call.key(b, j, h) * static_cast<std::size_t>(call.dv);
            for (Index c = 0; c < call.dv; ++c) {
              o[c] += p * v[c];
            }
          }
        }
      }
    }
    const auto keep = [&](const Vector& all, Tensor& to) {
      const Index width = call.heads * to.size(3), n = to.size(1);
      for (Index i = 0; i < to.numel(); ++i) {
        const Index b = i / (n * width);
        const Index skipped = (b + 1) * (call.keys - n) * width;
        to.data<Real>()[i] = all[static_cast<std::size_t>(i + skipped)];
      }
    };
    keep(call.k, out.kT);
    keep(call.v, out.vT);
  }

  // With p = softmax(s): ds_j = p_j (dp_j - sum_i p_i dp_i + dlse), dp_j = do v_j; the sink is one
  // more logit, whose value is 0.
  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs& a) {
    const Call call(in, a);
    const auto values = [](const Tensor& t, std::size_t n) {
      return t.defined() ? t.to_vector<Real>() : Vector(n);
    };
    const auto n_queries = static_cast<std::size_t>(call.batch * call.queries * call.q_heads);
    const auto dk = static_cast<std::size_t>(call.dk), dv = static_cast<std::size_t>(call.dv);
    const Vector go = values(dout.o, n_queries * dv), glse = values(dout.lse, n_queries);
    Vector gq(call.q.size()), gk(call.k.size()), gv(call.v.size()), slope;
    for (Tensor* d : {&din.sink, &din.bias}) {
      if (d->defined()) {
        d->zero_();
      }
    }
    for (Index b = 0; b < call.batch; ++b) {
      for (Index t = 0; t < call.queries; ++t) {
        for (Index h = 0; h < call.q_heads; ++h) {
          const Vector s = call.logits(b, t, h, slope);
          const Real lse = call.lse(s, h);
          const std::size_t query = call.query(b, t, h);
          Vector p, dp;
          Real mean = 0;
          for (Index j = 0; j < call.keys; ++j) {
            p.push_back(probability(s[static_cast<std::size_t>(j)], lse));
            dp.push_back(0);
            for (std::size_t c = 0; c < dv; ++c) {
              dp.back() += go[query * dv + c] * call.v[call.key(b, j, h) * dv + c];
              gv[call.key(b, j, h) * dv + c] += p.back() * go[query * dv + c];
            }
            mean += p.back() * dp.back();
          }
          if (din.sink.defined()) {
            din.sink.data<Real>()[h] +=
                std::exp(static_cast<Real>(in.sink.at(h)) - lse) * (glse[query] - mean);
          }
          for (Index j = 0; j < call.keys; ++j) {
            const auto i = static_cast<std::size_t>(j);
            const Real ds = p[i] * (dp[i] - mean + glse[query]);
            if (din.bias.defined()) {
              din.bias.data<Real>()[call.pair(h, t, j)] += ds;
            }
            const Real dx = ds * slope[i] * static_cast<Real>(a.scale);
            for (std::size_t c = 0; c < dk; ++c) {
              gq[query * dk + c] += dx * call.k[call.key(b, j, h) * dk + c];
              gk[call.key(b, j, h) * dk + c] += dx * call.q[query * dk + c];
            }
          }
        }
      }
    }
    const auto from_kept = [&](const Tensor& g, Vector& to) {
      const Index n = a.kept(call.keys);
      for (Index i = 0; g.defined() && i < g.numel(); ++i) {
        const Index width = call.heads * g.size(3), b = i / (n * width);
        to[static_cast<std::size_t>(i + (b + 1) * (call.keys - n) * width)] +=
            static_cast<Real>(g.at(i));
      }
    };
    from_kept(dout.kT, gk);
    from_kept(dout.vT, gv);
    if (din.q.defined()) {
      std::copy(gq.begin(), gq.end(), din.q.data<Real>());
    }
    call.part(gk, call.heads * call.dk, din.k0, din.k);
    call.part(gv, call.heads * call.dv, din.v0, din.v);
  }
};

Cost cost(const Op::In<Tensor>& in, const Op::Attrs& a) {
  const auto pairs = static_cast<double>(in.q.size(0) * in.q.size(2)) *
                     static_cast<double>(in.q.size(1)) * static_cast<double>(in.k.size(1)) *
                     (a.causal ? 0.5 : 1.0);
  return {.bytes = static_cast<double>(2 * in.q.bytes() + in.k.bytes() + in.v.bytes()),
          .flops = 2 * pairs * static_cast<double>(in.q.size(3) + in.v.size(3))};
}

LS_OP(Attention, "attention",
      "softmax attention in blocks: grouped queries, window, cap, sink, packed documents, cache")
    .in("q[B,T,HQ,Dk] k[B,Tk,H,Dk] v[B,Tk,H,Dv] k0[B,T0,H,Dk]? v0[B,T0,H,Dv]? start[B,T]:i64? "
        "sink[HQ]:acc? "
        "slopes[HQ]:acc? bias[HQ,T,Ta]:acc? offsets[N1]:i64?")
    .out("o[B,T,HQ,Dv] lse[B,T,HQ]:acc kT[B,T1,H,Dk] vT[B,T1,H,Dv]")
    .saves("q k v k0 v0 start sink slopes bias offsets o lse")
    .no_grad("slopes")
    .strided_grad("q k v")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
