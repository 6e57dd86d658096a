#include "core/ops/mlstm/mlstm.h"

#include "core/ops/common/chunks.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = Mlstm;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs& a, Bindings& b) {
  LS_CHECK(a.normalize || !a.stabilize, kConfig,
           "mlstm: without a normaliser nothing takes exp(m) out again; switch stabilize off");
  LS_CHECK(a.stabilize || !in.m0.defined(), kShape, "mlstm: m0 is given, but stabilize is off");
  if (!a.stabilize) {
    b.drop_output("mT");
  }
  common::bind_states("mlstm", in.q.size(0), in.offsets, in.c0, "c0");
  common::bind_states("mlstm", in.q.size(0), in.offsets, in.n0, "n0");
  common::bind_states("mlstm", in.q.size(0), in.offsets, in.m0, "m0");
}

/// Token by token, as the equations stand.
template <class Real>
struct Reference {
  /// States after a token, and what the token made of the ones before.
  struct Step {
    Step(Index dk, Index dv) : c(dk, dv), n(dk) {}
    Buffer<Real, 2> c;
    Buffer<Real> n;
    Real m = 0;
    Real kept = 0, written = 0;  ///< exp(f + m' - m), exp(i - m)
    bool from_input = false;     ///< m = i
  };

  struct Call {
    Call(const Op::In<TensorView>& in, const Op::Attrs& x)
        : attrs(x),
          q(in.q),
          k(in.k),
          v(in.v),
          c0(in.c0),
          i(in.i),
          f(in.f),
          n0(in.n0),
          m0(in.m0),
          heads(k.size(2)),
          dk(k.size(3)),
          dv(v.size(3)),
          scale(Real(x.scale)),
          seqs(common::sequences(q.size(0), q.size(1), in.offsets, "mlstm")) {}
    /// The states before and after each token of sequence s.
    std::vector<Step> states(Index s, Index h) const {
      const auto& [b, begin, length, start, end] = seqs[s];
      std::vector<Step> steps;
      Step& first = steps.emplace_back(dk, dv);
      first.m = common::state_or_zero(m0, start, h);
      for (Index x = 0; x < dk; ++x) {
        first.n(x) = common::state_or_zero(n0, start, h, x);
        for (Index c = 0; c < dv; ++c) {
          first.c(x, c) = common::state_or_zero(c0, start, h, x, c);
        }
      }
      for (Index t = begin; t < begin + length; ++t) {
        Step next(dk, dv);
        const Step& last = steps.back();
        const Real through = f(b, t, h) + last.m, input = i(b, t, h);
        next.from_input = input > through;
        next.m = attrs.stabilize ? std::max(through, input) : Real(0);
        next.kept = std::exp(f(b, t, h) + (last.m - next.m));
        next.written = std::exp(input - next.m);
        for (Index x = 0; x < dk; ++x) {
          const Real w = next.written * k(b, t, h, x);
          next.n(x) = next.kept * last.n(x) + w;
          for (Index c = 0; c < dv; ++c) {
            next.c(x, c) = next.kept * last.c(x, c) + w * v(b, t, h, c);
          }
        }
        steps.push_back(std::move(next));
      }
      return steps;
    }
    /// What the query of a token reads.
    struct Read {
      Buffer<Real> value;  ///< scale q C
      Real sum;            ///< scale q n
      Real floor, below;   ///< exp(-m); what `value` is divided by
    };
    Read read(const Step& s, Index b, Index t, Index h) const {
      Read r{Buffer<Real>(dv), 0, std::exp(-s.m), 1};
      for (Index x = 0; x < dk; ++x) {
        r.sum += scale * q(b, t, h, x) * s.n(x);
        for (Index c = 0; c < dv; ++c) {
          r.value(c) += scale * q(b, t, h, x) * s.c(x, c);
        }
      }
      if (attrs.normalize) {
        r.below = std::max(std::abs(r.sum), r.floor) + Real(attrs.eps);
      }
      return r;
    }
    const Op::Attrs& attrs;
    View<const Real, 4> q, k, v, c0;
    View<const Real, 3> i, f, n0;
    View<const Real, 2> m0;
    Index heads, dk, dv;
    Real scale;
    std::vector<common::Sequence> seqs;
  };

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Call call(in, a);
    const View<Real, 4> o(out.o), cT(out.cT);
    const View<Real, 3> nT(out.nT);
    const View<Real, 2> mT(out.mT);
    for (Index s = 0; s < std::ssize(call.seqs); ++s) {
      const auto& [b, begin, length, start, end] = call.seqs[s];
      for (Index h = 0; h < call.heads; ++h) {
        const std::vector<Step> steps = call.states(s, h);
        for (Index e = 0; e < length; ++e) {
          const auto read = call.read(steps[e + 1], b, begin + e, h);
          for (Index c = 0; c < call.dv; ++c) {
            o(b, begin + e, h, c) = read.value(c) / read.below;
          }
        }
        const Step& last = steps.back();
        common::put_state(mT, last.m, end, h);
        for (Index x = 0; x < call.dk; ++x) {
          common::put_state(nT, last.n(x), end, h, x);
          for (Index c = 0; c < call.dv; ++c) {
            common::put_state(cT, last.c(x, c), end, h, x, c);
          }
        }
      }
    }
  }

  struct Gradients {
    explicit Gradients(Op::In<TensorView>& d)
        : q(d.q), k(d.k), v(d.v), c0(d.c0), i(d.i), f(d.f), n0(d.n0), m0(d.m0) {}
    View<Real, 4> q, k, v, c0;
    View<Real, 3> i, f, n0;
    View<Real, 2> m0;
  };
  /// Gradient of the states after a token, from all that comes later.
  struct Carried {
    Carried(Index dk, Index dv) : c(dk, dv), n(dk) {}
    Buffer<Real, 2> c;
    Buffer<Real> n;
    Real m = 0;
  };

  /// Adds what the output of a token gives.
  static void through_output(const Call& call, const Step& now, const View<const Real, 4>& go,
                             Index b, Index t, Index h, Carried& d, const Gradients& grad) {
    const auto read = call.read(now, b, t, h);
    Real dbelow = 0, dsum = 0;
    for (Index c = 0; c < call.dv; ++c) {
      dbelow -= common::or_zero(go, b, t, h, c) * read.value(c) / (read.below * read.below);
    }
    if (call.attrs.normalize && std::abs(read.sum) > read.floor) {
      dsum = read.sum > 0 ? dbelow : -dbelow;
    } else if (call.attrs.normalize) {
      d.m -= dbelow * read.floor;
    }
    for (Index x = 0; x < call.dk; ++x) {
      const Real q = call.scale * call.q(b, t, h, x);
      Real dq = dsum * now.n(x);
      d.n(x) += dsum * q;
      for (Index c = 0; c < call.dv; ++c) {
        const Real dvalue = common::or_zero(go, b, t, h, c) / read.below;
        dq += dvalue * now.c(x, c);
        d.c(x, c) += dvalue * q;
      }
      grad.q(b, t, h, x) += call.scale * dq;
    }
  }
  /// Through the step: d becomes the gradient of the states before.
  static void through_step(const Call& call, const Step& last, const Step& now, Index b, Index t,
                           Index h, Carried& d, const Gradients& grad) {
    Real dkept = 0, dwritten = 0;
    for (Index x = 0; x < call.dk; ++x) {
      const Real k = call.k(b, t, h, x);
      Real dk = d.n(x);
      dkept += d.n(x) * last.n(x);
      dwritten += d.n(x) * k;
      d.n(x) *= now.kept;
      for (Index c = 0; c < call.dv; ++c) {
        const Real v = call.v(b, t, h, c);
        dk += d.c(x, c) * v;
        dkept += d.c(x, c) * last.c(x, c);
        dwritten += d.c(x, c) * k * v;
        grad.v(b, t, h, c) += now.written * d.c(x, c) * k;
        d.c(x, c) *= now.kept;
      }
      grad.k(b, t, h, x) += now.written * dk;
    }
    const Real through = dkept * now.kept, input = dwritten * now.written;
    const Real dm = call.attrs.stabilize ? d.m - through - input : Real(0);
    const Real to_through = through + (now.from_input ? Real(0) : dm);
    grad.i(b, t, h) += input + (now.from_input ? dm : Real(0));
    grad.f(b, t, h) += to_through;
    d.m = to_through;
  }

  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Call call(in, a);
    const View<const Real, 4> go(dout.o), gcT(dout.cT);
    const View<const Real, 3> gnT(dout.nT);
    const View<const Real, 2> gmT(dout.mT);
    auto g = common::zero_gradients(in, din);
    const Gradients grad(g);
    for (Index s = 0; s < std::ssize(call.seqs); ++s) {
      const auto& [b, begin, length, start, end] = call.seqs[s];
      for (Index h = 0; h < call.heads; ++h) {
        const std::vector<Step> steps = call.states(s, h);
        Carried d(call.dk, call.dv);
        d.m = common::state_or_zero(gmT, end, h);
        for (Index x = 0; x < call.dk; ++x) {
          d.n(x) = common::state_or_zero(gnT, end, h, x);
          for (Index c = 0; c < call.dv; ++c) {
            d.c(x, c) = common::state_or_zero(gcT, end, h, x, c);
          }
        }
        for (Index e = length - 1; e >= 0; --e) {
          through_output(call, steps[e + 1], go, b, begin + e, h, d, grad);
          through_step(call, steps[e], steps[e + 1], b, begin + e, h, d, grad);
        }
        common::add_state(grad.m0, d.m, start, h);
        for (Index x = 0; x < call.dk; ++x) {
          common::add_state(grad.n0, d.n(x), start, h, x);
          for (Index c = 0; c < call.dv; ++c) {
            common::add_state(grad.c0, d.c(x, c), start, h, x, c);
          }
        }
      }
    }
  }
};

/// Half of each masked product counts.
Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs& a) {
  const Index b = in.q.size(0), t = in.q.size(1), h = in.k.size(2);
  const Index dk = in.k.size(3), dv = in.v.size(3);
  const Index c = common::is_recurrent(a, t) ? 0 : common::chunk_of(a, t);
  const Index values = 2 * b * t * h * (dk + dv);
  const Index states = b * h * (dk * dv + dk + 1);
  return {.bytes = 1.0 * values * dtype_size(in.q.dtype()) +
                   1.0 * ((in.c0.defined() ? 2 : 1) * states + 2 * b * t * h) *
                       dtype_size(acc_dtype(in.q.dtype())),
          .flops = 1.0 * b * t * h * (4 * dk * dv + 2 * c * (dk + dv))};
}

LS_OP(Mlstm, "mlstm", "matrix LSTM: additive memory with gates, a normaliser and a running maximum")
    .in("q[B,T,H,Dk] k[B,T,H,Dk] v[B,T,H,Dv] i[B,T,H]:acc f[B,T,H]:acc c0[N,H,Dk,Dv]:acc? "
        "n0[N,H,Dk]:acc? m0[N,H]:acc? offsets[N1]:i64?")
    .out("o[B,T,H,Dv] cT[B,H,Dk,Dv]:acc nT[B,H,Dk]:acc mT[B,H]:acc?")
    .saves("q k v i f c0 n0 m0 offsets o")
    .continues("c0", "cT")
    .continues("n0", "nT")
    .continues("m0", "mT")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
