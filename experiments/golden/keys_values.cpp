#include "core/ops/attention/attention.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

LS_GOLDEN(Attention, "attention") {
  const ops::Attention::In<ag::Var> in = {.q = c.in("q"),
                                          .k = c.in("k"),
                                          .v = c.in("v"),
                                          .sink = c.acc_or_none("sink"),
                                          .slopes = c.acc_or_none("alibi_slopes"),
                                          .bias = c.acc_or_none("bias"),
                                          .offsets = c.in_or_none("offsets")};
  ops::Attention::Attrs attrs;
  attrs.scale = c.number("scale", 1);
  attrs.causal = c.flag("causal");
  attrs.window = c.integer("window");
  attrs.softcap = c.number("softcap");
  attrs.prefix = c.integer("prefix");
  attrs.q_offset = c.integer("q_offset");
  // Pieces see what came before them: only where queries and keys are the same tokens, nothing
  // later is visible, and no table of pairs would have to be cut.
  const bool can_split = attrs.causal && in.q.size(1) == in.k.size(1) && attrs.q_offset == 0 &&
                         attrs.prefix == 0 && !in.bias.defined();
  const auto out = c.scan<ops::Attention>(in, attrs, can_split);
  c.out("o", out.o);
  c.out("lse", out.lse);
}

}  // namespace
}  // namespace ls::golden
