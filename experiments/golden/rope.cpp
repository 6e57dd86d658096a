#include "core/ops/rope/rope.h"

#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

LS_GOLDEN(Rope, "rope") {
  ops::RopeRule rule;
  rule.type = c.text("rope_type", rule.type);
  rule.theta = c.number("theta", rule.theta);
  rule.rotary_dim = c.integer("rotary_dim");
  rule.factor = c.number("factor", rule.factor);
  rule.original_max_position = c.number("original_max_position");
  rule.max_position = c.number("max_position");
  rule.seq_len = c.number("seq_len");
  rule.beta_fast = c.number("beta_fast", rule.beta_fast);
  rule.beta_slow = c.number("beta_slow", rule.beta_slow);
  rule.truncate = c.flag("truncate", rule.truncate);
  rule.low_freq_factor = c.number("low_freq_factor", rule.low_freq_factor);
  rule.high_freq_factor = c.number("high_freq_factor", rule.high_freq_factor);
  if (c.has_attribute("short_factor")) {
    rule.short_factor = c.numbers("short_factor");
    rule.long_factor = c.numbers("long_factor");
  }
  const Tensor inv_freq = Tensor::from(ops::rope_inv_freq(rule));
  c.out("inv_freq", inv_freq);
  ops::Rope::Attrs attrs;
  attrs.interleaved = c.choice("layout", {"half", "interleaved"}) == 1;
  attrs.attention_factor = c.number("attention_factor", 1);
  c.out("y", ag::call<ops::Rope>(
                 {.x = c.in("x"), .positions = c.in("positions"), .inv_freq = inv_freq}, attrs)
                 .y);
}

}  // namespace
}  // namespace ls::golden
