#include "core/ops/rope/rope.h"

#include <cmath>

#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

LS_GOLDEN(Rope, "rope") {
  ops::RopeRule rule;
  rule.type = parse_enum<ops::RopeType>(c.text("rope_type", "default"));
  rule.theta = c.number("theta", rule.theta);
  rule.rotary_dim = c.integer("rotary_dim");
  rule.factor = c.number("factor", rule.factor);
  rule.original_max_position = c.number("original_max_position");
  rule.max_position = c.number("max_position");
  rule.seq_len = c.number("seq_len");
  rule.beta_fast = c.number("beta_fast", rule.beta_fast);
  rule.beta_slow = c.number("beta_slow", rule.beta_slow);
  rule.truncate = c.flag("truncate", rule.truncate);
  rule.mscale = c.number("mscale", rule.mscale);
  rule.mscale_all_dim = c.number("mscale_all_dim", rule.mscale_all_dim);
  rule.low_freq_factor = c.number("low_freq_factor", rule.low_freq_factor);
  rule.high_freq_factor = c.number("high_freq_factor", rule.high_freq_factor);
  if (c.has_attribute("short_factor")) {
    rule.short_factor = c.numbers("short_factor");
    rule.long_factor = c.numbers("long_factor");
  }
  const Tensor inv_freq = Tensor::from(ops::rope_inv_freq(rule)).to(*c.options().device);
  c.out("inv_freq", inv_freq);
  ops::Rope::Attrs attrs;
  attrs.interleaved = c.choice("layout", {"half", "interleaved"}) == 1;
  const double factor = ops::rope_attention_factor(rule);
  attrs.attention_factor = c.number("attention_factor", factor);
  LS_CHECK(!c.has_attribute("mscale") || std::abs(attrs.attention_factor - factor) < 1e-12,
           kUnsupported, "attention_factor {} is not the {} of mscale and mscale_all_dim",
           attrs.attention_factor, factor);
  c.out("y", ag::call<ops::Rope>(
                 {.x = c.in("x"), .positions = c.in("positions"), .inv_freq = inv_freq}, attrs)
                 .y);
}

}  // namespace
}  // namespace ls::golden
