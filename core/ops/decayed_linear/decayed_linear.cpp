#include "core/ops/decayed_linear/decayed_linear.h"

#include "core/ops/common/chunks.h"

namespace ls::ops {
namespace {

using Op = DecayedLinear;

void bind(const Op::In<Tensor>& in, const Op::Attrs&, Bindings& b) {
  LS_CHECK(!(in.g.defined() && in.decay.defined()), kShape,
           "decayed_linear: give g or decay, not both");
  LS_CHECK(in.k.size(2) > 0 && in.q.size(2) % in.k.size(2) == 0, kShape,
           "decayed_linear: q and k: {} query heads are not a multiple of {} key heads",
           in.q.size(2), in.k.size(2));
  const Index n = common::sequence_count(in.q.size(0), in.offsets);
  LS_CHECK(!in.s0.defined() || in.s0.size(0) == n, kShape,
           "decayed_linear: s0 has {} rows for {} sequences", in.s0.defined() ? in.s0.size(0) : 0,
           n);
  if (!b.has("N")) {
    b.set("N", n);
  }
}

/// Token by token.
template <class Real>
struct Reference {
  static Real gate(const Op::In<Tensor>& in, const common::Operand<Real>& g, Index b, Index t,
                   Index h) {
    return in.g.defined()       ? *g.at(b, t, h)
           : in.decay.defined() ? static_cast<Real>(in.decay.at(h))
                                : Real(0);
  }
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    const Index h_count = in.k.size(2), group = in.q.size(2) / h_count, dk = in.k.size(3),
                dv = in.v.size(3);
    const auto seqs = common::sequences(in.q.size(0), in.q.size(1), in.offsets, "decayed_linear");
    const common::Operand<Real> q(in.q), k(in.k), v(in.v), g(in.g, true);
    const common::Result<Real> o(out.o);
    const Tensor s0 = in.s0.defined() ? in.s0.contiguous() : Tensor();
    for (std::size_t n = 0; n < seqs.size(); ++n) {
      for (Index h = 0; h < h_count; ++h) {
        Real* s = out.sT.data<Real>() + (static_cast<Index>(n) * h_count + h) * dk * dv;
        if (s0.defined()) {
          const Real* from = s0.data<Real>() + (static_cast<Index>(n) * h_count + h) * dk * dv;
          std::copy(from, from + dk * dv, s);
        } else {
          std::fill(s, s + dk * dv, Real(0));
        }
        for (Index i = 0; i < seqs[n].length; ++i) {
          const Index b = seqs[n].row, t = seqs[n].begin + i;
          const Real decay = std::exp(gate(in, g, b, t, h));
          for (Index x = 0; x < dk; ++x) {
            for (Index y = 0; y < dv; ++y) {
              s[x * dv + y] = decay * s[x * dv + y] + k.at(b, t, h)[x] * v.at(b, t, h)[y];
            }
          }
          for (Index j = h * group; j < (h + 1) * group; ++j) {
            Real* to = o.at(b, t, j);
            std::fill(to, to + dv, Real(0));
            for (Index x = 0; x < dk; ++x) {
              const Real w = static_cast<Real>(a.scale) * q.at(b, t, j)[x];
              for (Index y = 0; y < dv; ++y) {
                to[y] += w * s[x * dv + y];
              }
            }
          }
        }
      }
    }
  }
  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs& a) {
    const Index h_count = in.k.size(2), group = in.q.size(2) / h_count, dk = in.k.size(3),
                dv = in.v.size(3), size = dk * dv;
    const auto seqs = common::sequences(in.q.size(0), in.q.size(1), in.offsets, "decayed_linear");
    const common::Operand<Real> q(in.q), k(in.k), v(in.v), g(in.g, true), go(dout.o);
    const Real scale = static_cast<Real>(a.scale);
    for (Tensor* d : {&din.q, &din.k, &din.v, &din.g, &din.s0}) {
      if (d->defined()) {
        d->zero_();
      }
    }
    const common::Result<Real> dq(din.q), dkey(din.k), dval(din.v), dg(din.g);
    const Tensor s0 = in.s0.defined() ? in.s0.contiguous() : Tensor();
    const Tensor dsT = dout.sT.defined() ? dout.sT.contiguous() : Tensor();
    for (std::size_t n = 0; n < seqs.size(); ++n) {
      for (Index h = 0; h < h_count; ++h) {
        const Index at = (static_cast<Index>(n) * h_count + h) * size, length = seqs[n].length,
                    b = seqs[n].row;
        std::vector<Real> s(static_cast<std::size_t>((length + 1) * size)),
            ds(static_cast<std::size_t>(size));
        if (s0.defined()) {
          std::copy(s0.data<Real>() + at, s0.data<Real>() + at + size, s.begin());
        }
        if (dsT.defined()) {
          std::copy(dsT.data<Real>() + at, dsT.data<Real>() + at + size, ds.begin());
        }
        for (Index i = 0; i < length; ++i) {
          const Index t = seqs[n].begin + i;
          const Real decay = std::exp(gate(in, g, b, t, h));
          for (Index x = 0; x < dk; ++x) {
            for (Index y = 0; y < dv; ++y) {
              const auto e = static_cast<std::size_t>(x * dv + y),
                         now = static_cast<std::size_t>((i + 1) * size) + e;
              s[now] = decay * s[now - static_cast<std::size_t>(size)] +
                       k.at(b, t, h)[x] * v.at(b, t, h)[y];
            }
          }
        }
        for (Index i = length - 1; i >= 0; --i) {
          const Index t = seqs[n].begin + i;
          const Real decay = std::exp(gate(in, g, b, t, h));
          const Real* now = s.data() + (i + 1) * size;
          const Real* before = s.data() + i * size;
          Real dgate = 0;
          for (Index x = 0; x < dk; ++x) {
            for (Index y = 0; y < dv; ++y) {
              Real& d = ds[static_cast<std::size_t>(x * dv + y)];
              for (Index j = h * group; go.defined() && j < (h + 1) * group; ++j) {
                d += scale * q.at(b, t, j)[x] * go.at(b, t, j)[y];
                if (dq.defined()) {
                  dq.at(b, t, j)[x] += scale * now[x * dv + y] * go.at(b, t, j)[y];
                }
              }
              if (dkey.defined()) {
                dkey.at(b, t, h)[x] += d * v.at(b, t, h)[y];
              }
              if (dval.defined()) {
                dval.at(b, t, h)[y] += d * k.at(b, t, h)[x];
              }
              dgate += d * decay * before[x * dv + y];
              d *= decay;
            }
          }
          if (dg.defined()) {
            *dg.at(b, t, h) = dgate;
          }
        }
        if (din.s0.defined()) {
          std::copy(ds.begin(), ds.end(), din.s0.data<Real>() + at);
        }
      }
    }
  }
};

/// Half of each masked product counts.
Cost cost(const Op::In<Tensor>& in, const Op::Attrs& a) {
  const Index b = in.q.size(0), t = in.q.size(1), hq = in.q.size(2), h = in.k.size(2);
  const Index dk = in.k.size(3), dv = in.v.size(3), n = common::sequence_count(b, in.offsets);
  const Index c = common::is_recurrent(a, t) ? 0 : common::chunk_of(a, t);
  const Index values = b * t * (hq * (dk + dv) + h * (dk + dv));
  const Index accs = (in.s0.defined() ? 2 : 1) * n * h * dk * dv + (in.g.defined() ? b * t * h : 0);
  return {.bytes = static_cast<double>(values * dtype_size(in.q.dtype()) +
                                       accs * dtype_size(acc_dtype(in.q.dtype()))),
          .flops = static_cast<double>(b * t * (2 * (hq + h) * dk * dv + c * hq * (dk + dv)))};
}

LS_OP(DecayedLinear, "decayed_linear", "linear attention with no, constant or scalar decay")
    .in("q[B,T,HQ,Dk] k[B,T,H,Dk] v[B,T,H,Dv] g[B,T,H]:acc? decay[H]:acc? s0[N,H,Dk,Dv]:acc? "
        "offsets[N1]:i64?")
    .out("o[B,T,HQ,Dv] sT[N,H,Dk,Dv]:acc")
    .saves("q k v g decay s0 offsets")
    .no_grad("decay")
    .strided_grad("q k v")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
