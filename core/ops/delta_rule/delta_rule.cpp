#include "core/ops/delta_rule/delta_rule.h"

#include "core/ops/common/chunks.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = DeltaRule;

void bind(const Op::In<Tensor>& in, const Op::Attrs&, Bindings& b) {
  LS_CHECK(in.beta.defined() != in.beta_v.defined(), kShape,
           "delta_rule: give either beta or beta_v");
  LS_CHECK(in.k.size(2) > 0 && in.v.size(2) % in.k.size(2) == 0, kShape,
           "delta_rule: v and k: {} value heads are not a multiple of {} key heads", in.v.size(2),
           in.k.size(2));
  common::bind_states("delta_rule", in.q.size(0), in.offsets, in.s0, b);
}

/// Token by token, as the equation stands.
template <class Real>
struct Reference {
  /// q or k of one token, divided by its norm when the call asks for that.
  struct Row {
    Row(const View<const Real, 4>& x, Index b, Index t, Index h, bool normalize) : unit(x.size(3)) {
      Real square = Real(Op::kNormEps);
      for (Index i = 0; i < unit.size(); ++i) {
        unit(i) = x(b, t, h, i);
        square += unit(i) * unit(i);
      }
      factor = normalize ? 1 / std::sqrt(square) : Real(1);
      for (Real& e : unit) {
        e *= factor;
      }
    }
    Buffer<Real> unit;
    Real factor;
  };

  struct Call {
    Call(const Op::In<Tensor>& in, const Op::Attrs& a)
        : attrs(a),
          q(in.q),
          k(in.k),
          v(in.v),
          beta_v(in.beta_v),
          s0(in.s0),
          beta_h(in.beta),
          g(in.g),
          heads(v.size(2)),
          group(heads / k.size(2)),
          dk(k.size(3)),
          dv(v.size(3)),
          seqs(common::sequences(q.size(0), q.size(1), in.offsets, "delta_rule")) {}
    Row query(Index b, Index t, Index h) const { return {q, b, t, h / group, attrs.qk_l2norm}; }
    Row key(Index b, Index t, Index h) const { return {k, b, t, h / group, attrs.qk_l2norm}; }
    Real beta(Index b, Index t, Index h, Index c) const {
      return beta_h ? beta_h(b, t, h) : beta_v(b, t, h, c);
    }
    Real decay(Index b, Index t, Index h) const { return std::exp(common::or_zero(g, b, t, h)); }
    /// What the key reads at column c of the decayed state S_e.
    Real answer(const Buffer<Real, 3>& s, Index e, const Row& key, Real decay, Index c) const {
      Real read = 0;
      for (Index i = 0; i < dk; ++i) {
        read += key.unit(i) * decay * s(e, i, c);
      }
      return read;
    }
    /// S_0 .. S_T of sequence n and value head h.
    Buffer<Real, 3> states(Index n, Index h) const {
      const auto& [b, begin, length] = seqs[n];
      Buffer<Real, 3> s(length + 1, dk, dv);
      for (Index i = 0; i < dk; ++i) {
        for (Index c = 0; c < dv; ++c) {
          s(0, i, c) = common::or_zero(s0, n, h, i, c);
        }
      }
      for (Index e = 0; e < length; ++e) {
        const Index t = begin + e;
        const Row x = key(b, t, h);
        const Real alpha = decay(b, t, h);
        for (Index c = 0; c < dv; ++c) {
          const Real w = beta(b, t, h, c) * (v(b, t, h, c) - answer(s, e, x, alpha, c));
          for (Index i = 0; i < dk; ++i) {
            s(e + 1, i, c) = alpha * s(e, i, c) + x.unit(i) * w;
          }
        }
      }
      return s;
    }
    const Op::Attrs& attrs;
    View<const Real, 4> q, k, v, beta_v, s0;
    View<const Real, 3> beta_h, g;
    Index heads, group, dk, dv;
    std::vector<common::Sequence> seqs;
  };

  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    const Call call(in, a);
    const View<Real, 4> o(out.o.zero_()), sT(out.sT);
    for (Index n = 0; n < std::ssize(call.seqs); ++n) {
      const auto& [b, begin, length] = call.seqs[n];
      for (Index h = 0; h < call.heads; ++h) {
        const Buffer<Real, 3> s = call.states(n, h);
        for (Index e = 0; e < length; ++e) {
          const Row q = call.query(b, begin + e, h);
          for (Index i = 0; i < call.dk; ++i) {
            for (Index c = 0; c < call.dv; ++c) {
              o(b, begin + e, h, c) += Real(a.scale) * q.unit(i) * s(e + 1, i, c);
            }
          }
        }
        for (Index i = 0; i < call.dk; ++i) {
          for (Index c = 0; c < call.dv; ++c) {
            sT(n, h, i, c) = s(length, i, c);
          }
        }
      }
    }
  }

  /// Through x / |x|: adds to the gradient of token (b, t, h) that of its row `x`, which is `dx`.
  static void through_norm(const Row& x, const Buffer<Real>& dx, bool normalize,
                           const View<Real, 4>& gx, Index b, Index t, Index h) {
    Real along = 0;
    for (Index i = 0; i < dx.size() && normalize; ++i) {
      along += dx(i) * x.unit(i);
    }
    for (Index i = 0; i < dx.size(); ++i) {
      gx(b, t, h, i) += x.factor * (dx(i) - x.unit(i) * along);
    }
  }

  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs& a) {
    const Call call(in, a);
    const View<const Real, 4> go(dout.o), gsT(dout.sT);
    Op::In<Tensor> d = common::zero_gradients(in, din);
    const View<Real, 4> gq(d.q), gk(d.k), gv(d.v), gbeta_v(d.beta_v), gs0(d.s0);
    const View<Real, 3> gbeta(d.beta), gg(d.g);
    for (Index n = 0; n < std::ssize(call.seqs); ++n) {
      const auto& [b, begin, length] = call.seqs[n];
      for (Index h = 0; h < call.heads; ++h) {
        const Buffer<Real, 3> s = call.states(n, h);
        Buffer<Real, 2> ds(call.dk, call.dv);
        for (Index i = 0; i < call.dk; ++i) {
          for (Index c = 0; c < call.dv; ++c) {
            ds(i, c) = common::or_zero(gsT, n, h, i, c);
          }
        }
        for (Index e = length - 1; e >= 0; --e) {
          const Index t = begin + e;
          const Row q = call.query(b, t, h), k = call.key(b, t, h);
          const Real decay = call.decay(b, t, h);
          Buffer<Real> dq(call.dk), dk(call.dk);
          for (Index c = 0; c < call.dv; ++c) {
            const Real dy = Real(a.scale) * common::or_zero(go, b, t, h, c);
            Real dw = 0;
            for (Index i = 0; i < call.dk; ++i) {
              dq(i) += s(e + 1, i, c) * dy;
              ds(i, c) += q.unit(i) * dy;
              dw += k.unit(i) * ds(i, c);
            }
            // S_t = decayed + k w, w = beta (v - answer), answer = k decayed
            const Real beta = call.beta(b, t, h, c);
            const Real error = call.v(b, t, h, c) - call.answer(s, e, k, decay, c);
            gv(b, t, h, c) += beta * dw;
            (gbeta ? gbeta(b, t, h) : gbeta_v(b, t, h, c)) += dw * error;
            for (Index i = 0; i < call.dk; ++i) {
              const Real decayed = decay * s(e, i, c);
              dk(i) += ds(i, c) * beta * error - beta * dw * decayed;
              const Real ddecayed = ds(i, c) - k.unit(i) * beta * dw;
              if (gg) {
                gg(b, t, h) += ddecayed * decayed;
              }
              ds(i, c) = ddecayed * decay;
            }
          }
          through_norm(q, dq, a.qk_l2norm, gq, b, t, h / call.group);
          through_norm(k, dk, a.qk_l2norm, gk, b, t, h / call.group);
        }
        for (Index i = 0; gs0 && i < call.dk; ++i) {
          for (Index c = 0; c < call.dv; ++c) {
            gs0(n, h, i, c) = ds(i, c);
          }
        }
      }
    }
  }
};

/// Half of each masked product counts.
Cost cost(const Op::In<Tensor>& in, const Op::Attrs& a) {
  const Index b = in.q.size(0), t = in.q.size(1), h = in.k.size(2), hv = in.v.size(2);
  const Index dk = in.k.size(3), dv = in.v.size(3);
  const Index c = common::is_recurrent(a, t) ? 0 : common::chunk_of(a, t);
  const Index values = b * t * (2 * h * dk + 2 * hv * dv + hv * (in.beta.defined() ? 1 : dv));
  const Index states = common::sequence_count(b, in.offsets) * hv * dk * dv;
  const Index accs = (in.s0.defined() ? 2 : 1) * states + (in.g.defined() ? b * t * hv : 0);
  return {.bytes = 1.0 * values * dtype_size(in.q.dtype()) +
                   1.0 * accs * dtype_size(acc_dtype(in.q.dtype())),
          .flops = 1.0 * b * t * (6 * hv * dk * dv + 2 * c * (h * dk + hv * dv))};
}

LS_OP(DeltaRule, "delta_rule", "delta rule with an optional scalar gate")
    .in("q[B,T,H,Dk] k[B,T,H,Dk] v[B,T,HV,Dv] beta[B,T,HV]? beta_v[B,T,HV,Dv]? g[B,T,HV]:acc? "
        "s0[N,HV,Dk,Dv]:acc? offsets[N1]:i64?")
    .out("o[B,T,HV,Dv] sT[N,HV,Dk,Dv]:acc")
    .saves("q k v beta beta_v g s0 offsets")
    .strided_grad("q k v")
    .continues("s0", "sT")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
