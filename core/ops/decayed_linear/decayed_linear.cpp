#include "core/ops/decayed_linear/decayed_linear.h"

#include "core/ops/common/chunks.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = DecayedLinear;

void bind(const Op::In<Tensor>& in, const Op::Attrs&, Bindings& b) {
  LS_CHECK(!(in.g.defined() && in.decay.defined()), kShape,
           "decayed_linear: give g or decay, not both");
  LS_CHECK(in.k.size(2) > 0 && in.q.size(2) % in.k.size(2) == 0, kShape,
           "decayed_linear: q and k: {} query heads are not a multiple of {} key heads",
           in.q.size(2), in.k.size(2));
  common::bind_states("decayed_linear", in.q.size(0), in.offsets, in.s0, b);
}

/// Token by token, as the equation stands.
template <class Real>
struct Reference {
  struct Call {
    Call(const Op::In<Tensor>& in, const Op::Attrs& a)
        : q(in.q),
          k(in.k),
          v(in.v),
          s0(in.s0),
          scale(Real(a.scale)),
          heads(in.k.size(2)),
          group(in.q.size(2) / heads),
          dk(in.k.size(3)),
          dv(in.v.size(3)),
          seqs(common::sequences(q.size(0), q.size(1), in.offsets, "decayed_linear")),
          decay(q.size(0), q.size(1), heads) {
      const View<const Real, 3> g(in.g);
      const View<const Real, 1> constant(in.decay);
      for (Index b = 0; b < q.size(0); ++b) {
        for (Index t = 0; t < q.size(1); ++t) {
          for (Index h = 0; h < heads; ++h) {
            decay(b, t, h) = std::exp(g ? g(b, t, h) : common::or_zero(constant, h));
          }
        }
      }
    }
    /// S_0 .. S_T of sequence n and head h.
    Buffer<Real, 3> states(Index n, Index h) const {
      const auto& [b, begin, length] = seqs[n];
      Buffer<Real, 3> s(length + 1, dk, dv);
      for (Index i = 0; i < dk; ++i) {
        for (Index c = 0; c < dv; ++c) {
          s(0, i, c) = common::or_zero(s0, n, h, i, c);
          for (Index e = 0; e < length; ++e) {
            const Index t = begin + e;
            s(e + 1, i, c) = decay(b, t, h) * s(e, i, c) + k(b, t, h, i) * v(b, t, h, c);
          }
        }
      }
      return s;
    }
    View<const Real, 4> q, k, v, s0;
    Real scale;
    Index heads, group, dk, dv;
    std::vector<common::Sequence> seqs;
    Buffer<Real, 3> decay;  ///< exp(g) of [B,T,H]
  };

  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    const Call call(in, a);
    const View<Real, 4> o(out.o.zero_()), sT(out.sT);
    for (Index n = 0; n < std::ssize(call.seqs); ++n) {
      const auto& [b, begin, length] = call.seqs[n];
      for (Index h = 0; h < call.heads; ++h) {
        const Buffer<Real, 3> s = call.states(n, h);
        for (Index i = 0; i < call.dk; ++i) {
          for (Index c = 0; c < call.dv; ++c) {
            for (Index e = 0; e < length; ++e) {
              for (Index j = h * call.group; j < (h + 1) * call.group; ++j) {
                o(b, begin + e, j, c) += call.scale * call.q(b, begin + e, j, i) * s(e + 1, i, c);
              }
            }
            sT(n, h, i, c) = s(length, i, c);
          }
        }
      }
    }
  }

  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs& a) {
    const Call call(in, a);
    const View<const Real, 4> go(dout.o), gsT(dout.sT);
    Op::In<Tensor> d = common::zero_gradients(in, din);
    const View<Real, 4> gq(d.q), gk(d.k), gv(d.v), gs0(d.s0);
    const View<Real, 3> gg(d.g);
    for (Index n = 0; n < std::ssize(call.seqs); ++n) {
      const auto& [b, begin, length] = call.seqs[n];
      for (Index h = 0; h < call.heads; ++h) {
        const Buffer<Real, 3> s = call.states(n, h);
        for (Index i = 0; i < call.dk; ++i) {
          for (Index c = 0; c < call.dv; ++c) {
            Real ds = common::or_zero(gsT, n, h, i, c);
            for (Index e = length - 1; e >= 0; --e) {
              const Index t = begin + e;
              for (Index j = h * call.group; j < (h + 1) * call.group; ++j) {
                const Real dy = call.scale * common::or_zero(go, b, t, j, c);
                gq(b, t, j, i) += s(e + 1, i, c) * dy;
                ds += call.q(b, t, j, i) * dy;
              }
              gk(b, t, h, i) += ds * call.v(b, t, h, c);
              gv(b, t, h, c) += ds * call.k(b, t, h, i);
              if (gg) {
                gg(b, t, h) += ds * call.decay(b, t, h) * s(e, i, c);
              }
              ds *= call.decay(b, t, h);
            }
            if (gs0) {
              gs0(n, h, i, c) = ds;
            }
          }
        }
      }
    }
  }
};

/// Half of each masked product counts.
Cost cost(const Op::In<Tensor>& in, const Op::Attrs& a) {
  const Index b = in.q.size(0), t = in.q.size(1), hq = in.q.size(2), h = in.k.size(2);
  const Index dk = in.k.size(3), dv = in.v.size(3);
  const Index c = common::is_recurrent(a, t) ? 0 : common::chunk_of(a, t);
  const Index values = b * t * (hq + h) * (dk + dv);
  const Index states = common::sequence_count(b, in.offsets) * h * dk * dv;
  const Index accs = (in.s0.defined() ? 2 : 1) * states + (in.g.defined() ? b * t * h : 0);
  return {.bytes = 1.0 * values * dtype_size(in.q.dtype()) +
                   1.0 * accs * dtype_size(acc_dtype(in.q.dtype())),
          .flops = 1.0 * b * t * (2 * (hq + h) * dk * dv + c * hq * (dk + dv))};
}

LS_OP(DecayedLinear, "decayed_linear", "linear attention with no, constant or scalar decay")
    .in("q[B,T,HQ,Dk] k[B,T,H,Dk] v[B,T,H,Dv] g[B,T,H]:acc? decay[H]:acc? s0[N,H,Dk,Dv]:acc? "
        "offsets[N1]:i64?")
    .out("o[B,T,HQ,Dv] sT[N,H,Dk,Dv]:acc")
    .saves("q k v g decay s0 offsets")
    .no_grad("decay")
    .strided_grad("q k v")
    .continues("s0", "sT")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
