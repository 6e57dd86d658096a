#include "core/ops/delta_rule/delta_rule.h"

#include "core/ops/common/chunks.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = DeltaRule;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs&, Bindings&) {
  LS_CHECK(in.a.defined() == in.b.defined() && in.beta.defined() != in.a.defined(), kShape,
           "delta_rule: {}{}{}given; give either beta, or a and b",
           in.beta.defined() ? "beta " : "", in.a.defined() ? "a " : "",
           in.b.defined() ? "b " : "");
  LS_CHECK(in.k.size(2) > 0 && in.v.size(2) % in.k.size(2) == 0, kShape,
           "delta_rule: v and k: {} value heads are not a multiple of {} key heads", in.v.size(2),
           in.k.size(2));
  common::bind_states("delta_rule", in.q.size(0), in.offsets, in.s0);
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
    Call(const Op::In<TensorView>& in, const Op::Attrs& x)
        : attrs(x),
          q(in.q),
          k(in.k),
          v(in.v),
          a(in.a),
          b(in.b),
          gk(in.gk),
          s0(in.s0),
          beta(in.beta),
          g(in.g),
          heads(v.size(2)),
          group(heads / k.size(2)),
          dk(k.size(3)),
          dv(v.size(3)),
          seqs(common::sequences(q.size(0), q.size(1), in.offsets, "delta_rule")) {}
    Row query(Index n, Index t, Index h) const { return {q, n, t, h / group, attrs.qk_l2norm}; }
    Row key(Index n, Index t, Index h) const { return {k, n, t, h / group, attrs.qk_l2norm}; }
    Real decay(Index n, Index t, Index h, Index i) const {
      return std::exp(common::or_zero(g, n, t, h) + common::or_zero(gk, n, t, h, i));
    }
    /// What is read at column c of the state S_e, to be erased: by the key from the decayed state,
    /// or by a.
    Real answer(const Buffer<Real, 3>& s, Index e, Index n, Index t, Index h, const Row& key,
                Index c) const {
      Real read = 0;
      for (Index i = 0; i < dk; ++i) {
        read += (a ? a(n, t, h / group, i) : key.unit(i) * decay(n, t, h, i)) * s(e, i, c);
      }
      return read;
    }
    /// S_0 .. S_T of sequence n and value head h.
    Buffer<Real, 3> states(Index n, Index h) const {
      const auto& [row, begin, length, start, end] = seqs[n];
      Buffer<Real, 3> s(length + 1, dk, dv);
      for (Index i = 0; i < dk; ++i) {
        for (Index c = 0; c < dv; ++c) {
          s(0, i, c) = common::state_or_zero(s0, start, h, i, c);
        }
      }
      for (Index e = 0; e < length; ++e) {
        const Index t = begin + e;
        const Row x = key(row, t, h);
        for (Index c = 0; c < dv; ++c) {
          const Real read = answer(s, e, row, t, h, x, c), value = v(row, t, h, c);
          const Real w = a ? value : beta(row, t, h) * (value - read);
          for (Index i = 0; i < dk; ++i) {
            s(e + 1, i, c) = decay(row, t, h, i) * s(e, i, c) + x.unit(i) * w;
            if (b) {
              s(e + 1, i, c) += b(row, t, h / group, i) * read;
            }
          }
        }
      }
      return s;
    }
    const Op::Attrs& attrs;
    View<const Real, 4> q, k, v, a, b, gk, s0;
    View<const Real, 3> beta, g;
    Index heads, group, dk, dv;
    std::vector<common::Sequence> seqs;
  };

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Call call(in, a);
    const View<Real, 4> o(common::zeroed(out.o)), sT(out.sT);
    for (Index n = 0; n < std::ssize(call.seqs); ++n) {
      const auto& [b, begin, length, start, end] = call.seqs[n];
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
            common::put_state(sT, s(length, i, c), end, h, i, c);
          }
        }
      }
    }
  }

  struct Gradients {
    explicit Gradients(Op::In<TensorView>& d)
        : q(d.q), k(d.k), v(d.v), a(d.a), b(d.b), gk(d.gk), s0(d.s0), beta(d.beta), g(d.g) {}
    View<Real, 4> q, k, v, a, b, gk, s0;
    View<Real, 3> beta, g;
  };

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

  /// Column c of the step from S_e to S_{e+1}: ds, the gradient of S_{e+1}, becomes that of S_e.
  static void through_step(const Call& call, const Buffer<Real, 3>& s, Index e, Index b, Index t,
                           Index h, Index c, const Row& k, Buffer<Real>& dk, Buffer<Real, 2>& ds,
                           const Gradients& grad) {
    const Index hk = h / call.group;
    const Real read = call.answer(s, e, b, t, h, k, c), value = call.v(b, t, h, c);
    // Gradients of what k writes, and of what is read.
    Real dw = 0, dread = 0;
    for (Index i = 0; i < call.dk; ++i) {
      dw += k.unit(i) * ds(i, c);
      dread += call.b ? call.b(b, t, hk, i) * ds(i, c) : Real(0);
    }
    const Real beta = call.beta ? call.beta(b, t, h) : Real(1);
    const Real w = call.beta ? beta * (value - read) : value;
    grad.v(b, t, h, c) += beta * dw;
    if (call.beta) {
      grad.beta(b, t, h) += dw * (value - read);
      dread = -beta * dw;
    }
    for (Index i = 0; i < call.dk; ++i) {
      const Real decay = call.decay(b, t, h, i), before = s(e, i, c);
      Real ddecayed = ds(i, c);
      dk(i) += ds(i, c) * w;
      if (call.beta) {
        dk(i) += dread * decay * before;
        ddecayed += k.unit(i) * dread;
      } else {
        grad.a(b, t, hk, i) += dread * before;
        grad.b(b, t, hk, i) += ds(i, c) * read;
      }
      const Real dlog = ddecayed * decay * before;
      if (grad.g) {
        grad.g(b, t, h) += dlog;
      }
      if (grad.gk) {
        grad.gk(b, t, h, i) += dlog;
      }
      ds(i, c) = ddecayed * decay + (call.a ? call.a(b, t, hk, i) * dread : Real(0));
    }
  }

  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Call call(in, a);
    const View<const Real, 4> go(dout.o), gsT(dout.sT);
    auto d = common::zero_gradients(in, din);
    const Gradients grad(d);
    for (Index n = 0; n < std::ssize(call.seqs); ++n) {
      const auto& [b, begin, length, start, end] = call.seqs[n];
      for (Index h = 0; h < call.heads; ++h) {
        const Buffer<Real, 3> s = call.states(n, h);
        Buffer<Real, 2> ds(call.dk, call.dv);
        for (Index i = 0; i < call.dk; ++i) {
          for (Index c = 0; c < call.dv; ++c) {
            ds(i, c) = common::state_or_zero(gsT, end, h, i, c);
          }
        }
        for (Index e = length - 1; e >= 0; --e) {
          const Index t = begin + e;
          const Row q = call.query(b, t, h), k = call.key(b, t, h);
          Buffer<Real> dq(call.dk), dk(call.dk);
          for (Index c = 0; c < call.dv; ++c) {
            const Real dy = Real(a.scale) * common::or_zero(go, b, t, h, c);
            for (Index i = 0; i < call.dk; ++i) {
              dq(i) += s(e + 1, i, c) * dy;
              ds(i, c) += q.unit(i) * dy;
            }
            through_step(call, s, e, b, t, h, c, k, dk, ds, grad);
          }
          through_norm(q, dq, a.qk_l2norm, grad.q, b, t, h / call.group);
          through_norm(k, dk, a.qk_l2norm, grad.k, b, t, h / call.group);
        }
        for (Index i = 0; grad.s0 && i < call.dk; ++i) {
          for (Index c = 0; c < call.dv; ++c) {
            common::add_state(grad.s0, ds(i, c), start, h, i, c);
          }
        }
      }
    }
  }
};

/// Half of each masked product counts.
Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs& a) {
  const Index b = in.q.size(0), t = in.q.size(1), h = in.k.size(2), hv = in.v.size(2);
  const Index dk = in.k.size(3), dv = in.v.size(3);
  const Index c = common::is_recurrent(a, t) ? 0 : common::chunk_of(a, t);
  const Index low_rank = in.a.defined() ? 2 : 1;  // products with what is written
  const Index extra = in.a.defined() ? 2 * h * dk : hv;
  const Index values = b * t * (2 * h * dk + 2 * hv * dv + extra);
  const Index states = b * hv * dk * dv;
  const Index accs = (in.s0.defined() ? 2 : 1) * states + (in.g.defined() ? b * t * hv : 0) +
                     (in.gk.defined() ? b * t * hv * dk : 0);
  const Index scores =
      in.gk.defined() || in.a.defined() ? hv : h;  // heads with scores of their own
  return {
      .bytes = 1.0 * values * dtype_size(in.q.dtype()) +
               1.0 * accs * dtype_size(acc_dtype(in.q.dtype())),
      .flops = 1.0 * b * t *
               ((4 + 2 * low_rank) * hv * dk * dv + 2 * c * low_rank * (scores * dk + hv * dv))};
}

LS_OP(DeltaRule, "delta_rule", "delta rule, gated by head or channel; diagonal plus low rank")
    .in("q[B,T,H,Dk] k[B,T,H,Dk] v[B,T,HV,Dv] beta[B,T,HV]? a[B,T,H,Dk]? b[B,T,H,Dk]? "
        "g[B,T,HV]:acc? gk[B,T,HV,Dk]:acc? s0[N,HV,Dk,Dv]:acc? offsets[N1]:i64?")
    .out("o[B,T,HV,Dv] sT[B,HV,Dk,Dv]:acc")
    .saves("q k v beta a b g gk s0 offsets")
    .continues("s0", "sT")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
