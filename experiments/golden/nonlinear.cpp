#include "autograd/functional.h"
#include "core/ops/gru/gru.h"
#include "core/ops/linear/linear.h"
#include "core/ops/lstm/lstm.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

/// One dense head; both biases of the file are one of ours.
LS_GOLDEN(Lstm, "lstm") {
  const ag::Var recurrent = c.acc("weight_hh");
  const ag::Var bias_ih = c.acc_or_none("bias_ih"), bias_hh = c.acc_or_none("bias_hh");
  const ag::Var gx = ag::call<ops::Linear>({.x = c.in("x"), .weight = c.in("weight_ih")}).y;
  const auto out =
      c.scan<ops::Lstm>({.gx = gx,
                         .r = ag::reshape(recurrent, {1, recurrent.size(0), recurrent.size(1)}),
                         .bias = bias_ih.defined() && bias_hh.defined() ? ag::add(bias_ih, bias_hh)
                                 : bias_ih.defined()                    ? bias_ih
                                                                        : bias_hh,
                         .h0 = c.acc_or_none("h0"),
                         .c0 = c.acc_or_none("c0"),
                         .offsets = c.in_or_none("offsets")},
                        {});
  c.out("y", out.y);
  c.out("hT", out.hT);
  c.out("cT", out.cT);
}

/// One dense head. The recurrent bias of r and z is one with the other; that of n is inside the
/// product that the reset gate multiplies.
ops::Gru::Out<ag::Var> gru(GoldenCall& c, const ag::Var& bias, const ag::Var& bias_n,
                           ops::Reset reset) {
  const ag::Var recurrent = c.acc("weight_hh");
  const ag::Var gx = ag::call<ops::Linear>({.x = c.in("x"), .weight = c.in("weight_ih")}).y;
  ops::Gru::Attrs attrs;
  attrs.reset = reset;
  return c.scan<ops::Gru>({.gx = gx,
                           .r = ag::reshape(recurrent, {1, recurrent.size(0), recurrent.size(1)}),
                           .bias = bias,
                           .bias_n = bias_n,
                           .h0 = c.acc_or_none("h0"),
                           .offsets = c.in_or_none("offsets")},
                          attrs);
}
void reset_is(GoldenCall& c, ops::Reset reset) {
  const auto given = ops::Reset(c.choice("reset", {"after", "before"}));
  LS_CHECK(given == reset, kUnsupported, "reset {} in this file", enum_name(given));
}

LS_GOLDEN(Gru, "gru") {
  reset_is(c, ops::Reset::kAfter);
  ag::Var bias = c.acc_or_none("bias_ih"), bias_n;
  if (const ag::Var bias_hh = c.acc_or_none("bias_hh"); bias_hh.defined()) {
    const Index d = bias_hh.size(0) / 3;
    bias_n = ag::slice(bias_hh, 0, 2 * d, 3 * d);
    const ag::Var none(Tensor::zeros({d}, bias_hh.dtype(), bias_hh.value().device()));
    const ag::Var gates = ag::concat({ag::slice(bias_hh, 0, 0, 2 * d), none}, 0);
    bias = bias.defined() ? ag::add(bias, gates) : gates;
  }
  const auto out = gru(c, bias, bias_n, ops::Reset::kAfter);
  c.out("y", out.y);
  c.out("hT", out.hT);
}
LS_GOLDEN(GruResetBefore, "gru_reset_before") {
  reset_is(c, ops::Reset::kBefore);
  const auto out = gru(c, c.acc_or_none("bias"), ag::Var(), ops::Reset::kBefore);
  c.out("y", out.y);
  c.out("hT", out.hT);
}

}  // namespace
}  // namespace ls::golden
