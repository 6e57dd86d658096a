#include "layers/mixers/rope_scaling.h"

#include <algorithm>

#include "autograd/call.h"

namespace ls::layers {

ops::RopeRule RopeScalingConfig::rule(double theta, Index dim, Index tokens) const {
  const auto original = static_cast<double>(original_length.value_or(0));
  ops::RopeRule r{.type = type,
                  .theta = theta,
                  .rotary_dim = dim,
                  .factor = factor.value_or(1),
                  .original_max_position = original,
                  .max_position = original,
                  .seq_len = static_cast<double>(tokens),
                  .truncate = truncate.value_or(true),
                  .mscale = mscale.value_or(0),
                  .mscale_all_dim = mscale_all_dim.value_or(0)};
  r.beta_fast = beta_fast.value_or(r.beta_fast);
  r.beta_slow = beta_slow.value_or(r.beta_slow);
  r.low_freq_factor = low_freq_factor.value_or(r.low_freq_factor);
  r.high_freq_factor = high_freq_factor.value_or(r.high_freq_factor);
  r.short_factor = short_factor;
  r.long_factor = long_factor;
  return r;
}

Rotary::Rotary(const std::string& mixer, const RopeScalingConfig& scaling, double theta, Index dim)
    : scaling_(scaling), theta_(theta), dim_(dim) {
  using Type = ops::RopeType;
  LS_CHECK(dim % 2 == 0, kConfig,
           "{}: rotary positions need an even head_dim, not {}; set position: none", mixer, dim);
  LS_CHECK(scaling.type != Type::kDynamic || dim > 2, kConfig,
           "{}: rope_scaling type dynamic needs a head_dim above 2: one pair of channels has "
           "frequency 1 under any base; set type: linear",
           mixer);
  LS_CHECK(scaling.type != Type::kYarn || theta > 1, kConfig,
           "{}: rope_scaling type yarn needs rope_theta above 1, not {}", mixer, theta);
  for (const auto& [name, list] : {std::pair("short_factor", &scaling.short_factor),
                                   std::pair("long_factor", &scaling.long_factor)}) {
    LS_CHECK(scaling.type != Type::kLongRope || std::ssize(*list) == dim / 2, kConfig,
             "{}: rope_scaling.{} has {} numbers; heads of {} channels need {}, one for each pair",
             mixer, name, list->size(), dim, dim / 2);
  }
}

Index Rotary::tokens_of(const SeqContext& seq) const {
  if (!scaling_.by_length()) {
    return 0;
  }
  Index tokens = scaling_.length.value_or(seq.length());
  const Index original = *scaling_.original_length;
  if (tokens == 0) {
    LS_CHECK(!seq.stretch().varies(), kConfig,
             "rope_scaling type {} makes frequencies for the length of a sequence, which is not "
             "known where steps are recorded; set rope_scaling.length",
             enum_name(scaling_.type));
    tokens = std::ranges::max(seq.stretch().seen_after());
    LS_CHECK(tokens <= original, kConfig,
             "rope_scaling type {}: the sequence goes on to {} tokens, beyond original_length {}, "
             "and its keys were turned before that was known; set rope_scaling.length to the "
             "tokens that sequences have in the end",
             enum_name(scaling_.type), tokens, original);
  }
  if (tokens <= original) {
    return 0;
  }
  return scaling_.type == ops::RopeType::kLongRope ? original + 1 : tokens;
}

Tensor Rotary::frequencies(const SeqContext& seq, Device& device) const {
  const Index tokens = tokens_of(seq);
  Tensor& t = made_[{&device, tokens}];
  if (!t.defined()) {
    t = Tensor::from(ops::rope_inv_freq(scaling_.rule(theta_, dim_, tokens))).to(device);
  }
  return t;
}

ag::Var Rotary::operator()(const ag::Var& x, const SeqContext& seq) const {
  const ag::Var positions(seq.positions());
  if (scaling_.type == ops::RopeType::kDefault) {
    return ag::call<ops::Rope>({.x = x, .positions = positions}, {.theta = theta_}).y;
  }
  const double factor = ops::rope_attention_factor(scaling_.rule(theta_, dim_, 0));
  return ag::call<ops::Rope>(
             {.x = x,
              .positions = positions,
              .inv_freq = ag::Var(frequencies(seq, x.value().device()))},
             {.theta = theta_, .attention_factor = scaling_.attention_factor.value_or(factor)})
      .y;
}

}  // namespace ls::layers
