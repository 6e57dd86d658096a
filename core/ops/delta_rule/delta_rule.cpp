#include "core/ops/delta_rule/delta_rule.h"

#include "core/ops/common/chunks.h"

namespace ls::ops {
namespace {

using Op = DeltaRule;
constexpr double kNormEps = 1e-6;

void bind(const Op::In<Tensor>& in, const Op::Attrs&, Bindings& b) {
  LS_CHECK(in.beta.defined() != in.beta_v.defined(), kShape,
           "delta_rule: give either beta or beta_v");
  LS_CHECK(in.k.size(2) > 0 && in.v.size(2) % in.k.size(2) == 0, kShape,
           "delta_rule: v and k: {} value heads are not a multiple of {} key heads", in.v.size(2),
           in.k.size(2));
  const Index n = common::sequence_count(in.q.size(0), in.offsets);
  LS_CHECK(!in.s0.defined() || in.s0.size(0) == n, kShape,
           "delta_rule: s0 has {} rows for {} sequences", in.s0.defined() ? in.s0.size(0) : 0, n);
  if (!b.has("N")) {
    b.set("N", n);
  }
}

/// Token by token, as the equation stands.
template <class Real>
struct Reference {
  struct Token {
    std::vector<Real> q, k, beta;
    Real nq = 1, nk = 1, decay = 1;  // factors of the normalisation
  };
  static Token token(const Op::In<Tensor>& in, const Op::Attrs& a, Index b, Index t, Index hv) {
    const Index h = hv / (in.v.size(2) / in.k.size(2)), dk = in.k.size(3), dv = in.v.size(3);
    const common::Operand<Real> q(in.q), k(in.k), beta(in.beta, true), beta_v(in.beta_v),
        g(in.g, true);
    Token x;
    x.q.assign(q.at(b, t, h), q.at(b, t, h) + dk);
    x.k.assign(k.at(b, t, h), k.at(b, t, h) + dk);
    const auto normalise = [&](std::vector<Real>& v) {
      Real sum = static_cast<Real>(kNormEps);
      for (const Real e : v) {
        sum += e * e;
      }
      const Real n = Real(1) / std::sqrt(sum);
      for (Real& e : v) {
        e *= n;
      }
      return n;
    };
    if (a.qk_l2norm) {
      x.nq = normalise(x.q);
      x.nk = normalise(x.k);
    }
    for (Index c = 0; c < dv; ++c) {
      x.beta.push_back(in.beta.defined() ? *beta.at(b, t, hv) : beta_v.at(b, t, hv)[c]);
    }
    x.decay = in.g.defined() ? std::exp(*g.at(b, t, hv)) : Real(1);
    return x;
  }
  // s becomes the next state; `read` the decayed state's answer to the key.
  static void update(std::vector<Real>& s, const Token& x, const Real* v, Index dk, Index dv,
                     std::vector<Real>& read) {
    read.assign(static_cast<std::size_t>(dv), Real(0));
    for (Index i = 0; i < dk; ++i) {
      for (Index c = 0; c < dv; ++c) {
        Real& e = s[static_cast<std::size_t>(i * dv + c)];
        e *= x.decay;
        read[static_cast<std::size_t>(c)] += x.k[static_cast<std::size_t>(i)] * e;
      }
    }
    for (Index i = 0; i < dk; ++i) {
      for (Index c = 0; c < dv; ++c) {
        const auto j = static_cast<std::size_t>(c);
        s[static_cast<std::size_t>(i * dv + c)] +=
            x.k[static_cast<std::size_t>(i)] * x.beta[j] * (v[c] - read[j]);
      }
    }
  }
  static std::vector<Real> first_state(const Tensor& s0, Index at, Index size) {
    std::vector<Real> s(static_cast<std::size_t>(size));
    if (s0.defined()) {
      const Tensor c = s0.contiguous();
      std::copy(c.data<Real>() + at, c.data<Real>() + at + size, s.begin());
    }
    return s;
  }
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    const Index heads = in.v.size(2), dk = in.k.size(3), dv = in.v.size(3), size = dk * dv;
    const auto seqs = common::sequences(in.q.size(0), in.q.size(1), in.offsets, "delta_rule");
    const common::Operand<Real> v(in.v);
    const common::Result<Real> o(out.o);
    std::vector<Real> read;
    for (std::size_t n = 0; n < seqs.size(); ++n) {
      for (Index h = 0; h < heads; ++h) {
        const Index at = (static_cast<Index>(n) * heads + h) * size;
        std::vector<Real> s = first_state(in.s0, at, size);
        for (Index i = 0; i < seqs[n].length; ++i) {
          const Index b = seqs[n].row, t = seqs[n].begin + i;
          const Token x = token(in, a, b, t, h);
          update(s, x, v.at(b, t, h), dk, dv, read);
          Real* to = o.at(b, t, h);
          std::fill(to, to + dv, Real(0));
          for (Index j = 0; j < dk; ++j) {
            for (Index c = 0; c < dv; ++c) {
              to[c] += static_cast<Real>(a.scale) * x.q[static_cast<std::size_t>(j)] *
                       s[static_cast<std::size_t>(j * dv + c)];
            }
          }
        }
        std::copy(s.begin(), s.end(), out.sT.data<Real>() + at);
      }
    }
  }
  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs& a) {
    const Index heads = in.v.size(2), group = heads / in.k.size(2), dk = in.k.size(3),
                dv = in.v.size(3), size = dk * dv;
    const auto seqs = common::sequences(in.q.size(0), in.q.size(1), in.offsets, "delta_rule");
    const common::Operand<Real> v(in.v), go(dout.o);
    const Real scale = static_cast<Real>(a.scale);
    for (Tensor* d : {&din.q, &din.k, &din.v, &din.beta, &din.beta_v, &din.g, &din.s0}) {
      if (d->defined()) {
        d->zero_();
      }
    }
    const common::Result<Real> dq(din.q), dkey(din.k), dval(din.v), dbeta(din.beta),
        dbeta_v(din.beta_v), dg(din.g);
    std::vector<Real> read;
    for (std::size_t n = 0; n < seqs.size(); ++n) {
      for (Index h = 0; h < heads; ++h) {
        const Index at = (static_cast<Index>(n) * heads + h) * size, b = seqs[n].row;
        std::vector<std::vector<Real>> states = {first_state(in.s0, at, size)};
        for (Index i = 0; i < seqs[n].length; ++i) {
          std::vector<Real> s = states.back();
          update(s, token(in, a, b, seqs[n].begin + i, h), v.at(b, seqs[n].begin + i, h), dk, dv,
                 read);
          states.push_back(std::move(s));
        }
        std::vector<Real> ds = first_state(dout.sT, at, size);
        for (Index i = seqs[n].length - 1; i >= 0; --i) {
          const Index t = seqs[n].begin + i;
          const Token x = token(in, a, b, t, h);
          const std::vector<Real>& before = states[static_cast<std::size_t>(i)];
          const std::vector<Real>& now = states[static_cast<std::size_t>(i) + 1];
          std::vector<Real> gq(static_cast<std::size_t>(dk)), gk(static_cast<std::size_t>(dk)),
              answer(static_cast<std::size_t>(dv)), gw(static_cast<std::size_t>(dv));
          for (Index j = 0; j < dk; ++j) {
            for (Index c = 0; c < dv; ++c) {
              const auto e = static_cast<std::size_t>(j * dv + c);
              if (go.defined()) {
                gq[static_cast<std::size_t>(j)] += scale * now[e] * go.at(b, t, h)[c];
                ds[e] += scale * x.q[static_cast<std::size_t>(j)] * go.at(b, t, h)[c];
              }
              answer[static_cast<std::size_t>(c)] +=
                  x.k[static_cast<std::size_t>(j)] * x.decay * before[e];
              gw[static_cast<std::size_t>(c)] += x.k[static_cast<std::size_t>(j)] * ds[e];
            }
          }
          Real dgate = 0;
          for (Index j = 0; j < dk; ++j) {
            for (Index c = 0; c < dv; ++c) {
              const auto e = static_cast<std::size_t>(j * dv + c), cc = static_cast<std::size_t>(c);
              const Real write = x.beta[cc] * (v.at(b, t, h)[c] - answer[cc]);
              const Real danswer = -x.beta[cc] * gw[cc];
              gk[static_cast<std::size_t>(j)] += ds[e] * write + danswer * x.decay * before[e];
              const Real ddecayed = ds[e] + x.k[static_cast<std::size_t>(j)] * danswer;
              dgate += ddecayed * x.decay * before[e];
              ds[e] = ddecayed * x.decay;
            }
          }
          for (Index c = 0; c < dv; ++c) {
            const auto cc = static_cast<std::size_t>(c);
            const Real db = gw[cc] * (v.at(b, t, h)[c] - answer[cc]);
            if (dval.defined()) {
              dval.at(b, t, h)[c] = x.beta[cc] * gw[cc];
            }
            if (dbeta.defined()) {
              *dbeta.at(b, t, h) += db;
            }
            if (dbeta_v.defined()) {
              dbeta_v.at(b, t, h)[c] = db;
            }
          }
          if (dg.defined()) {
            *dg.at(b, t, h) = dgate;
          }
          const auto through_norm = [&](std::vector<Real>& d, const std::vector<Real>& unit,
                                        Real factor) {
            Real dot = 0;
            for (std::size_t j = 0; j < d.size(); ++j) {
              dot += d[j] * unit[j];
            }
            for (std::size_t j = 0; j < d.size(); ++j) {
              d[j] = factor * (d[j] - unit[j] * dot);
            }
          };
          if (a.qk_l2norm) {
            through_norm(gq, x.q, x.nq);
            through_norm(gk, x.k, x.nk);
          }
          for (Index j = 0; j < dk; ++j) {
            if (dq.defined()) {
              dq.at(b, t, h / group)[j] += gq[static_cast<std::size_t>(j)];
            }
            if (dkey.defined()) {
              dkey.at(b, t, h / group)[j] += gk[static_cast<std::size_t>(j)];
            }
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
  const Index b = in.q.size(0), t = in.q.size(1), h = in.k.size(2), hv = in.v.size(2);
  const Index dk = in.k.size(3), dv = in.v.size(3), n = common::sequence_count(b, in.offsets);
  const Index c = common::is_recurrent(a, t) ? 0 : common::chunk_of(a, t);
  const Index values = b * t * (2 * h * dk + 2 * hv * dv + hv * (in.beta.defined() ? 1 : dv));
  const Index accs =
      (in.s0.defined() ? 2 : 1) * n * hv * dk * dv + (in.g.defined() ? b * t * hv : 0);
  return {.bytes = static_cast<double>(values * dtype_size(in.q.dtype()) +
                                       accs * dtype_size(acc_dtype(in.q.dtype()))),
          .flops = static_cast<double>(b * t * (6 * hv * dk * dv + 2 * c * (h * dk + hv * dv)))};
}

LS_OP(DeltaRule, "delta_rule", "delta rule with an optional scalar gate")
    .in("q[B,T,H,Dk] k[B,T,H,Dk] v[B,T,HV,Dv] beta[B,T,HV]? beta_v[B,T,HV,Dv]? g[B,T,HV]:acc? "
        "s0[N,HV,Dk,Dv]:acc? offsets[N1]:i64?")
    .out("o[B,T,HV,Dv] sT[N,HV,Dk,Dv]:acc")
    .saves("q k v beta beta_v g s0 offsets")
    .strided_grad("q k v")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
