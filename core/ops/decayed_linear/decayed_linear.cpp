#include "core/ops/decayed_linear/decayed_linear.h"

#include "core/ops/common/chunks.h"
#include "core/ops/common/reference.h"
#include "core/ops/decayed_linear/decayed_linear_heads.h"

namespace ls::ops {
namespace {

using Op = DecayedLinear;
using decayed_linear::Heads;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs&, Bindings& b) {
  LS_CHECK(!(in.g.defined() && in.decay.defined()), kShape,
           "decayed_linear: give g or decay, not both");
  const auto divides = [](Index part, Index whole) { return part > 0 && whole % part == 0; };
  const Index h = in.v.size(2), hq = in.q.size(2), hk = in.k.size(2);
  LS_CHECK(divides(hk, h), kShape,
           "decayed_linear: k and v: {} value heads are not a multiple of {} key heads", h, hk);
  LS_CHECK(divides(h, hq) || divides(hq, h), kShape,
           "decayed_linear: q and v: {} query heads are not a multiple of {} value heads, nor the "
           "other way round",
           hq, h);
  LS_CHECK(!in.u.defined() || divides(in.u.size(0), h), kShape,
           "decayed_linear: u and v: {} value heads are not a multiple of {} heads of u", h,
           in.u.defined() ? in.u.size(0) : 0);
  b.set("HO", Heads(in).out());
  common::bind_states("decayed_linear", in.q.size(0), in.offsets, in.s0);
}

/// Token by token, as the equation stands.
template <class Real>
struct Reference {
  struct Call {
    Call(const Op::In<TensorView>& in, const Op::Attrs& a)
        : q(in.q),
          k(in.k),
          v(in.v),
          s0(in.s0),
          u(in.u),
          scale(Real(a.scale)),
          heads(in),
          dk(in.k.size(3)),
          dv(in.v.size(3)),
          seqs(common::sequences(q.size(0), q.size(1), in.offsets, "decayed_linear")),
          rows(q.size(0), q.size(1), heads.state, dk),
          columns(q.size(0), q.size(1), heads.state, dv) {
      const View<const Real, 3> g(in.g);
      const View<const Real, 4> key(in.gk), value(in.gv);
      const View<const Real, 1> constant(in.decay);
      for (Index b = 0; b < q.size(0); ++b) {
        for (Index t = 0; t < q.size(1); ++t) {
          for (Index h = 0; h < heads.state; ++h) {
            const Real of_head = g ? g(b, t, h) : common::or_zero(constant, h);
            for (Index i = 0; i < dk; ++i) {
              rows(b, t, h, i) = std::exp(of_head + common::or_zero(key, b, t, h, i));
            }
            for (Index c = 0; c < dv; ++c) {
              columns(b, t, h, c) = std::exp(common::or_zero(value, b, t, h, c));
            }
          }
        }
      }
    }
    Real key(Index b, Index t, Index h, Index i) const { return k(b, t, heads.key_of(h), i); }
    Real query(Index b, Index t, Index h, Index j, Index i) const {
      return q(b, t, heads.query_of(h, j), i);
    }
    Real bonus(Index h, Index i) const { return u(heads.bonus_of(h), i); }
    Real decay(Index b, Index t, Index h, Index i, Index c) const {
      return rows(b, t, h, i) * columns(b, t, h, c);
    }
    /// S_0 .. S_T of sequence n and head h.
    Buffer<Real, 3> states(Index n, Index h) const {
      const auto& [b, begin, length, start, end] = seqs[n];
      Buffer<Real, 3> s(length + 1, dk, dv);
      for (Index i = 0; i < dk; ++i) {
        for (Index c = 0; c < dv; ++c) {
          s(0, i, c) = common::state_or_zero(s0, start, h, i, c);
          for (Index e = 0; e < length; ++e) {
            const Index t = begin + e;
            s(e + 1, i, c) = decay(b, t, h, i, c) * s(e, i, c) + key(b, t, h, i) * v(b, t, h, c);
          }
        }
      }
      return s;
    }
    View<const Real, 4> q, k, v, s0;
    View<const Real, 2> u;
    Real scale;
    Heads heads;
    Index dk, dv;
    std::vector<common::Sequence> seqs;
    Buffer<Real, 4> rows, columns;  ///< exp(g + gk) [B,T,H,Dk], exp(gv) [B,T,H,Dv]
  };

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Call call(in, a);
    const View<Real, 4> o(common::zeroed(out.o)), sT(out.sT);
    for (Index n = 0; n < std::ssize(call.seqs); ++n) {
      const auto& [b, begin, length, start, end] = call.seqs[n];
      for (Index h = 0; h < call.heads.state; ++h) {
        const Buffer<Real, 3> s = call.states(n, h);
        for (Index i = 0; i < call.dk; ++i) {
          for (Index c = 0; c < call.dv; ++c) {
            for (Index e = 0; e < length; ++e) {
              const Index t = begin + e;
              const Real read =
                  call.u ? s(e, i, c) + call.bonus(h, i) * call.key(b, t, h, i) * call.v(b, t, h, c)
                         : s(e + 1, i, c);
              for (Index j = 0; j < call.heads.group(); ++j) {
                o(b, t, call.heads.out_of(h, j), c) +=
                    call.scale * call.query(b, t, h, j, i) * read;
              }
            }
            common::put_state(sT, s(length, i, c), end, h, i, c);
          }
        }
      }
    }
  }

  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Call call(in, a);
    const View<const Real, 4> go(dout.o), gsT(dout.sT);
    auto d = common::zero_gradients(in, din);
    const View<Real, 4> gq(d.q), gk(d.k), gv(d.v), grow(d.gk), gcolumn(d.gv), gs0(d.s0);
    const View<Real, 3> gg(d.g);
    const View<Real, 2> gu(d.u);
    for (Index n = 0; n < std::ssize(call.seqs); ++n) {
      const auto& [b, begin, length, start, end] = call.seqs[n];
      for (Index h = 0; h < call.heads.state; ++h) {
        const Buffer<Real, 3> s = call.states(n, h);
        const Index hk = call.heads.key_of(h);
        for (Index i = 0; i < call.dk; ++i) {
          for (Index c = 0; c < call.dv; ++c) {
            Real ds = common::state_or_zero(gsT, end, h, i, c);
            for (Index e = length - 1; e >= 0; --e) {
              const Index t = begin + e;
              const Real key = call.key(b, t, h, i), value = call.v(b, t, h, c);
              Real read = 0;  // gradient of what the queries read
              for (Index j = 0; j < call.heads.group(); ++j) {
                const Real dy = call.scale * common::or_zero(go, b, t, call.heads.out_of(h, j), c);
                read += call.query(b, t, h, j, i) * dy;
                gq(b, t, call.heads.query_of(h, j), i) +=
                    dy * (call.u ? s(e, i, c) + call.bonus(h, i) * key * value : s(e + 1, i, c));
              }
              ds += call.u ? Real(0) : read;
              const Real bonus = call.u ? read * call.bonus(h, i) : Real(0);
              gk(b, t, hk, i) += (ds + bonus) * value;
              gv(b, t, h, c) += (ds + bonus) * key;
              if (call.u) {
                gu(call.heads.bonus_of(h), i) += read * key * value;
              }
              const Real through = ds * call.decay(b, t, h, i, c) * s(e, i, c);
              add(gg, through, b, t, h);
              add(grow, through, b, t, h, i);
              add(gcolumn, through, b, t, h, c);
              ds = ds * call.decay(b, t, h, i, c) + (call.u ? read : Real(0));
            }
            common::add_state(gs0, ds, start, h, i, c);
          }
        }
      }
    }
  }
  template <int N, class... I>
  static void add(const View<Real, N>& to, Real x, I... at) {
    if (to) {
      to(at...) += x;
    }
  }
};

/// Half of each masked product counts.
Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs& a) {
  const Heads heads(in);
  const Index b = in.q.size(0), t = in.q.size(1), ho = heads.out(), h = heads.state;
  const Index dk = in.k.size(3), dv = in.v.size(3);
  const Index c = common::is_recurrent(a, t) ? 0 : common::chunk_of(a, t);
  const Index values = b * t * ((heads.query + heads.key) * dk + (ho + h) * dv);
  const Index states = b * h * dk * dv;
  const Index decays =
      (in.g.defined() ? 1 : 0) + (in.gk.defined() ? dk : 0) + (in.gv.defined() ? dv : 0);
  const Index accs = (in.s0.defined() ? 2 : 1) * states + b * t * h * decays;
  return {.bytes = 1.0 * values * dtype_size(in.q.dtype()) +
                   1.0 * accs * dtype_size(acc_dtype(in.q.dtype())),
          .flops = 1.0 * b * t * (2 * (ho + h) * dk * dv + c * ho * (dk + dv))};
}

LS_OP(DecayedLinear, "decayed_linear",
      "linear attention: no decay, or one per head, key or value channel; bonus of the last token")
    .in("q[B,T,HQ,Dk] k[B,T,HK,Dk] v[B,T,H,Dv] g[B,T,H]:acc? gk[B,T,H,Dk]:acc? gv[B,T,H,Dv]:acc? "
        "decay[H]:acc? u[HU,Dk]:acc? s0[N,H,Dk,Dv]:acc? offsets[N1]:i64?")
    .out("o[B,T,HO,Dv] sT[B,H,Dk,Dv]:acc")
    .saves("q k v g gk gv decay u s0 offsets")
    .no_grad("decay")
    .continues("s0", "sT")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
