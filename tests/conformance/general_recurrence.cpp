// decayed_linear and delta_rule with every combination of their inputs against the one recurrence
// that has them all: outputs and states in every form, gradients along a random direction.
#include "tests/support/general_recurrence.h"

#include <doctest/doctest.h>

#include "core/ops/row_normalize/row_normalize.h"
#include "tests/support/draw.h"
#include "tests/support/recurrences.h"

using namespace ls;
using namespace ls::test;
using namespace ls::test::recurrences;

namespace {

constexpr Index kRows = 2, kTokens = 41, kDk = 4, kDv = 3;

double at(const Tensor& x, Index b, Index t, Index h, Index i = 0) {
  return View<const double, 4>(x.rank() == 3 ? x.unsqueeze(3) : x)(b, t, h, i);
}

/// o and sT of `heads` state heads, each filled by fill(recurrence, b, h); output head j reads
/// state head j / readers.
template <class F>
std::pair<Tensor, Tensor> oracle(Index heads, Index readers, const Tensor& s0, F&& fill) {
  Tensor o = Tensor::zeros({kRows, kTokens, heads * readers, kDv}, DType::kF64);
  Tensor sT = Tensor::zeros({kRows, heads, kDk, kDv}, DType::kF64);
  const View<double, 4> to(o), last(sT);
  const View<const double, 4> first(s0);
  for (Index b = 0; b < kRows; ++b) {
    for (Index j = 0; j < heads * readers; ++j) {
      const Index h = j / readers;
      GeneralRecurrence r(kTokens, kDk, kDv);
      for (Index i = 0; first && i < kDk; ++i) {
        for (Index c = 0; c < kDv; ++c) {
          r.state(i, c) = first(b, h, i, c);
        }
      }
      fill(r, b, h, j);
      const Buffer<double, 2> out = r.run();
      for (Index t = 0; t < kTokens; ++t) {
        for (Index c = 0; c < kDv; ++c) {
          to(b, t, j, c) = out(t, c);
        }
      }
      for (Index i = 0; i < kDk; ++i) {
        for (Index c = 0; c < kDv; ++c) {
          last(b, h, i, c) = r.state(i, c);
        }
      }
    }
  }
  return {o, sT};
}

/// Row t of x, over its norm where that is asked for.
void set_row(Buffer<double, 2>& to, Index t, const Tensor& x, Index b, Index h, double factor,
             bool normalize = false) {
  double square = ops::DeltaRule::kNormEps;
  for (Index i = 0; i < to.size() / kTokens; ++i) {
    to(t, i) = at(x, b, t, h, i);
    square += to(t, i) * to(t, i);
  }
  for (Index i = 0; i < to.size() / kTokens; ++i) {
    to(t, i) *= factor / (normalize ? std::sqrt(square) : 1.0);
  }
}

std::pair<Tensor, Tensor> oracle(const Delta& in, const ops::DeltaRule::Attrs& attrs) {
  const Index heads = in.v.size(2), group = heads / in.k.size(2);
  return oracle(heads, 1, in.s0, [&](GeneralRecurrence& r, Index b, Index h, Index) {
    const Index hk = h / group;
    r.scale = attrs.scale;
    r.erases_decayed = in.beta.defined();
    for (Index t = 0; t < kTokens; ++t) {
      const double beta = in.beta.defined() ? at(in.beta, b, t, h) : 1;
      set_row(r.q, t, in.q, b, hk, 1, attrs.qk_l2norm);
      set_row(r.k, t, in.k, b, hk, 1, attrs.qk_l2norm);
      set_row(r.v, t, in.v, b, h, beta);
      for (Index i = 0; i < kDk; ++i) {
        r.a(t, i) = in.a.defined() ? at(in.a, b, t, hk, i) : r.k(t, i);
        r.b(t, i) = in.b.defined() ? at(in.b, b, t, hk, i) : -beta * r.k(t, i);
        r.row(t, i) = (in.g.defined() ? at(in.g, b, t, h) : 0) +
                      (in.gk.defined() ? at(in.gk, b, t, h, i) : 0);
      }
    }
  });
}

std::pair<Tensor, Tensor> oracle(const Linear& in, const ops::DecayedLinear::Attrs& attrs) {
  const Index heads = in.v.size(2), out = std::max(heads, in.q.size(2));
  return oracle(heads, out / heads, in.s0, [&](GeneralRecurrence& r, Index b, Index h, Index j) {
    r.scale = attrs.scale;
    r.exclusive = in.u.defined();
    for (Index i = 0; in.u.defined() && i < kDk; ++i) {
      r.u(i) = View<const double, 2>(in.u)(h / (heads / in.u.size(0)), i);
    }
    for (Index t = 0; t < kTokens; ++t) {
      set_row(r.q, t, in.q, b, j / (out / in.q.size(2)), 1);
      set_row(r.k, t, in.k, b, h / (heads / in.k.size(2)), 1);
      set_row(r.v, t, in.v, b, h, 1);
      for (Index i = 0; i < kDk; ++i) {
        r.row(t, i) = (in.g.defined() ? at(in.g, b, t, h) : 0) +
                      (in.decay.defined() ? in.decay.slow_at(h) : 0) +
                      (in.gk.defined() ? at(in.gk, b, t, h, i) : 0);
      }
      for (Index c = 0; c < kDv; ++c) {
        r.column(t, c) = in.gv.defined() ? at(in.gv, b, t, h, c) : 0;
      }
    }
  });
}

double dot(const Tensor& x, const Tensor& y) {
  const auto a = x.to_vector<double>(), b = y.to_vector<double>();
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}

/// Outputs and states in every form and type; in f64 the gradients of one random sum of both, along
/// one random direction of all inputs, against the difference of the oracle.
template <class Op, class In, class Attrs>
void compare(const In& in, const Attrs& given, Draw& draw) {
  const auto want = oracle(in, given);
  const OpInfo& op = op_info<Op>();
  std::vector<Tensor> list = ls::detail::spread_members<Tensor>(in), along(list.size());
  std::vector<bool> wanted;
  const std::vector<ShapeOf> shapes = shapes_of(list);
  for (std::size_t i = 0; i < list.size(); ++i) {
    wanted.push_back(list[i].defined() && op.in[i].differentiable);
    along[i] = wanted[i] ? draw.normal(list[i].shape()) : Tensor();
  }
  const std::vector<Tensor> dout = {draw.normal(want.first.shape()),
                                    draw.normal(want.second.shape())};
  const auto moved = [&](double step) {
    std::vector<Tensor> to = list;
    for (std::size_t i = 0; i < to.size(); ++i) {
      if (wanted[i]) {
        Tensor by = along[i].clone();
        by.mul_(step);
        by.add_(list[i]);
        to[i] = by;
      }
    }
    const auto [o, s] = oracle(ls::detail::gather_members<In>(std::span<const Tensor>(to)), given);
    return dot(o, dout[0]) + dot(s, dout[1]);
  };
  constexpr double kStep = 1e-4;
  const auto slope = [&](double step) { return (moved(step) - moved(-step)) / (2 * step); };
  const double exact = (4 * slope(kStep) - slope(2 * kStep)) / 3;
  for (const Way& way : kWays) {
    Attrs attrs = given;
    attrs.form = way.form;
    const auto out = run<Op>(way, in, attrs);
    CHECK(difference(out.o, want.first) < way.tolerance * 10);
    CHECK(difference(out.sT, want.second) < way.tolerance * 10);
    if (way.type != DType::kF64) {
      continue;
    }
    const std::vector<Tensor> saved(op.out.size());
    const auto din = run_backward(op, list, saved, dout, wanted, shapes, DType::kF64, &attrs);
    double got = 0;
    for (std::size_t i = 0; i < din.size(); ++i) {
      got += wanted[i] ? dot(din[i], along[i]) : 0;
    }
    CHECK(std::abs(got - exact) < 1e-8 * std::max(1.0, std::abs(exact)));
  }
}

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("general recurrence: every combination of inputs of delta_rule") {
    Draw draw("general delta");
    for (unsigned bits = 0; bits < 32; ++bits) {
      CAPTURE(bits);
      const bool low_rank = bits & 1, g = bits & 2, gk = bits & 4, s0 = bits & 8, norm = bits & 16;
      const Index heads = 2, key_heads = bits % 3 == 0 ? 1 : 2;
      Delta in{.q = draw.normal({kRows, kTokens, key_heads, kDk}),
               .k = draw.unit_rows({kRows, kTokens, key_heads, kDk}),
               .v = draw.normal({kRows, kTokens, heads, kDv})};
      if (low_rank) {
        in.a = draw.normal(in.k.shape(), 0.3);
        in.b = draw.normal(in.k.shape(), 0.3);
      } else {
        in.beta = draw.uniform({kRows, kTokens, heads}, 0, 1);
      }
      in.g = g ? draw.uniform({kRows, kTokens, heads}, -0.5, 0) : Tensor();
      in.gk = gk ? draw.uniform({kRows, kTokens, heads, kDk}, -1, 0) : Tensor();
      in.s0 = s0 ? draw.normal({kRows, heads, kDk, kDv}) : Tensor();
      ops::DeltaRule::Attrs attrs;
      attrs.scale = 0.6;
      attrs.qk_l2norm = norm;
      compare<ops::DeltaRule>(in, attrs, draw);
    }
  }

  TEST_CASE("general recurrence: every combination of inputs of decayed_linear") {
    Draw draw("general linear");
    for (unsigned bits = 0; bits < 64; ++bits) {
      CAPTURE(bits);
      const bool g = bits & 1, decay = !g && (bits & 2), gk = bits & 4, gv = bits & 8,
                 bonus = bits & 16, s0 = bits & 32;
      const Index heads = 2;
      Linear in{.q = draw.normal({kRows, kTokens,
                                  bits % 5 == 0   ? 1
                                  : bits % 3 == 0 ? 4
                                                  : 2,
                                  kDk}),
                .k = draw.normal({kRows, kTokens, bits % 7 == 0 ? 1 : 2, kDk}),
                .v = draw.normal({kRows, kTokens, heads, kDv})};
      in.g = g ? draw.uniform({kRows, kTokens, heads}, -0.5, 0) : Tensor();
      in.decay = decay ? draw.uniform({heads}, -0.3, 0) : Tensor();
      in.gk = gk ? draw.uniform({kRows, kTokens, heads, kDk}, -1, 0) : Tensor();
      in.gv = gv ? draw.uniform({kRows, kTokens, heads, kDv}, -1, 0) : Tensor();
      in.u = bonus ? draw.normal({bits % 11 == 0 ? 1 : 2, kDk}) : Tensor();
      in.s0 = s0 ? draw.normal({kRows, heads, kDk, kDv}) : Tensor();
      ops::DecayedLinear::Attrs attrs;
      attrs.scale = 0.6;
      compare<ops::DecayedLinear>(in, attrs, draw);
    }
  }

  TEST_CASE("general recurrence: a normaliser is one more value channel") {
    // decayed_linear over its own column of ones, against the oracle's division.
    Draw draw("general normaliser");
    Linear in{.q = draw.uniform({kRows, kTokens, 2, kDk}, 0.1, 1),
              .k = draw.uniform({kRows, kTokens, 2, kDk}, 0.1, 1),
              .v = draw.normal({kRows, kTokens, 2, kDv}),
              .g = draw.uniform({kRows, kTokens, 2}, -0.5, 0)};
    in.v.slice(3, kDv - 1, kDv).fill_(1);
    const auto want = oracle(2, 1, {}, [&](GeneralRecurrence& r, Index b, Index h, Index) {
      r.normalize = true;
      r.eps = 1e-3;
      for (Index t = 0; t < kTokens; ++t) {
        set_row(r.q, t, in.q, b, h, 1);
        set_row(r.k, t, in.k, b, h, 1);
        set_row(r.v, t, in.v, b, h, 1);
        for (Index i = 0; i < kDk; ++i) {
          r.row(t, i) = at(in.g, b, t, h);
        }
      }
    });
    for (const Way& way : kWays) {
      const auto out = run<ops::DecayedLinear>(way, in);
      const Tensor o = call_op<ops::RowNormalize>({.x = out.o}, {.eps = 1e-3}).y.to(DType::kF64);
      CHECK(difference(o.contiguous(), want.first.slice(3, 0, kDv - 1).contiguous()) <
            way.tolerance * 10);
    }
  }
}
