#include "autograd/functional.h"
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

}  // namespace
}  // namespace ls::golden
