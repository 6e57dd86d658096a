// Gradients of log-decays, each token's against f64 relative to its own size: strong decays leave
// tiny gradients beside large ones.
#include <doctest/doctest.h>

#include <cmath>

#include "core/op/run.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/delta_rule/delta_rule.h"
#include "tests/support/draw.h"

namespace ls::test {
namespace {

constexpr Index kB = 2, kT = 75, kH = 2, kDk = 8, kDv = 6;

/// Positive operands: no sum of decayed_linear loses digits by cancelling.
template <class Op>
typename Op::template In<Tensor> inputs(Draw& draw, double strong) {
  typename Op::template In<Tensor> in;
  in.q = draw.uniform({kB, kT, kH, kDk}, 0.1, 1);
  in.k = draw.uniform({kB, kT, kH, kDk}, 0.1, 1);
  in.v = draw.uniform({kB, kT, kH, kDv}, 0.1, 1);
  in.g = draw.uniform({kB, kT, kH}, -0.2, 0);
  in.s0 = draw.uniform({kB, kH, kDk, kDv}, 0.1, 1);
  for (Index t = 5; t < kT; t += 11) {
    in.g.select(1, t).fill_(strong);
  }
  return in;
}

/// dg in the type of the tensors, by the reference or the kernel; outputs and states have gradients
/// of ones.
template <class Op>
Tensor decay_gradient(typename Op::template In<Tensor> in, const typename Op::Attrs& attrs,
                      DType dtype) {
  std::vector<Tensor> list = ls::detail::spread_members<Tensor>(in);
  std::vector<bool> wanted;
  const OpInfo& op = op_info<Op>();
  for (std::size_t i = 0; i < list.size(); ++i) {
    list[i] = list[i].defined() ? list[i].to(dtype) : list[i];
    wanted.push_back(op.in[i].name == "g");
  }
  const std::vector<Tensor> out = run_forward(op, list, &attrs);
  std::vector<Tensor> dout;
  for (const Tensor& o : out) {
    dout.push_back(Tensor::full(o.shape(), o.dtype(), 1));
  }
  return run_backward(op, list, out, dout, wanted, shapes_of(list), dtype,
                      &attrs)[static_cast<std::size_t>(op.input_index("g"))];
}

/// `signs`: the terms of a sum have both signs, so that its size is exp(g_t) times the largest
/// <S_{t-1}, dS_t> of all tokens.
template <class Op>
void check(const typename Op::template In<Tensor>& in, bool signs, double tolerance) {
  for (const Form form : {Form::kRecurrent, Form::kChunk, Form::kParallel}) {
    CAPTURE(enum_name(form));
    typename Op::Attrs attrs;
    attrs.form = form;
    const Tensor got = decay_gradient<Op>(in, attrs, DType::kF32);
    Tensor want;
    {
      const UseReference reference;
      // The same rounded inputs.
      auto list = ls::detail::spread_members<Tensor>(in);
      for (Tensor& t : list) {
        t = t.defined() ? t.to(DType::kF32).to(DType::kF64) : t;
      }
      want = decay_gradient<Op>(ls::detail::gather_members<typename Op::template In<Tensor>>(
                                    std::span<const Tensor>(list)),
                                attrs, DType::kF64);
    }
    const Tensor g = in.g.to(DType::kF32);
    double largest = 0;
    for (Index i = 0; signs && i < want.numel(); ++i) {
      if (g.slow_at(i) > -1) {
        largest = std::max(largest, std::abs(want.slow_at(i)) / std::exp(g.slow_at(i)));
      }
    }
    double worst = 0;
    for (Index i = 0; i < want.numel(); ++i) {
      const double own = signs ? std::exp(g.slow_at(i)) * largest : std::abs(want.slow_at(i));
      const double size = own + 1e-36;  // what f32 cannot hold is 0
      worst = std::max(worst, std::abs(got.slow_at(i) - want.slow_at(i)) / size);
    }
    CHECK(worst < tolerance);
  }
}

TEST_SUITE("unit") {
  TEST_CASE("decayed_linear: dg of every token is exact relative to its own size") {
    for (const double strong : {-300.0, -60.0, -12.0}) {
      CAPTURE(strong);
      Draw draw("decay gradient");
      check<ops::DecayedLinear>(inputs<ops::DecayedLinear>(draw, strong), false, 2e-5);
    }
  }

  TEST_CASE("delta_rule: dg of every token is exact relative to its own size") {
    for (const double strong : {-300.0, -60.0, -12.0}) {
      CAPTURE(strong);
      Draw draw("decay gradient of the delta rule");
      auto in = inputs<ops::DeltaRule>(draw, strong);
      in.beta = draw.uniform({kB, kT, kH}, 0.01, 0.05);
      check<ops::DeltaRule>(in, true, 2e-5);
    }
  }
}

}  // namespace
}  // namespace ls::test
