#include "layers/mixers/attention.h"

#include <cmath>

#include "autograd/functional.h"
#include "core/ops/attention/attention.h"
#include "core/ops/rms_norm/rms_norm.h"

namespace ls::layers {

Attention::Attention(const Config& c, const MixerArgs& a) : config_(c), eps_(a.norm_eps) {
  heads_ = c.heads.value_or(std::max<Index>(1, a.width / 64));
  kv_heads_ = c.kv_heads.value_or(heads_);
  dim_ = c.head_dim.value_or(a.width / heads_);
  LS_CHECK(c.head_dim || a.width % heads_ == 0, kConfig,
           "attention: {} heads do not divide width {}; set head_dim or another number of heads",
           heads_, a.width);
  LS_CHECK(heads_ % kv_heads_ == 0, kConfig, "attention: kv_heads ({}) must divide heads ({})",
           kv_heads_, heads_);
  if (c.position == Position::kRope) {
    rotary_ = Rotary("attention", c.rope_scaling, c.rope_theta, dim_);
  }
  const Init init = Init::normal(a.init_std);
  qkv_ = Linear(a.scope.child("qkv"), a.width, (heads_ + 2 * kv_heads_) * dim_, init);
  // Depth residual branches of two halves each: their sum keeps its size.
  out_ = Linear(a.scope.child("out"), heads_ * dim_, a.width,
                Init::normal(a.init_std / std::sqrt(2.0 * static_cast<double>(a.depth))));
  if (c.qk_norm) {
    q_norm_ = a.scope.child("q_norm").param("weight", {dim_}, Init::constant(1), {.decay = false});
    k_norm_ = a.scope.child("k_norm").param("weight", {dim_}, Init::constant(1), {.decay = false});
  }
}

ag::Var Attention::forward(const ag::Var& x, SeqContext& seq) {
  const Index b = seq.batch(), t = seq.tokens();
  const auto parts = ag::split(qkv_(x), 2, {heads_ * dim_, kv_heads_ * dim_, kv_heads_ * dim_});
  ag::Var q = ag::reshape(parts[0], {b, t, heads_, dim_});
  ag::Var k = ag::reshape(parts[1], {b, t, kv_heads_, dim_});
  const ag::Var v = ag::reshape(parts[2], {b, t, kv_heads_, dim_});
  if (config_.qk_norm) {
    q = ag::call<ops::RmsNorm>({.x = q, .weight = q_norm_}, {.eps = eps_}).y;
    k = ag::call<ops::RmsNorm>({.x = k, .weight = k_norm_}, {.eps = eps_}).y;
  }
  if (config_.position == Position::kRope) {
    q = rotary_(q, seq);
    k = rotary_(k, seq);
  }
  const ag::Var o =
      seq.scan<ops::Attention>(
             "kv", {.q = q, .k = k, .v = v},
             {.scale = inverse_root(dim_), .causal = true, .window = config_.window.value_or(0)})
          .o;
  return out_(ag::reshape(o, {b, t, heads_ * dim_}));
}

LS_REGISTER(
    TokenMixer, Attention, "attention",
    "softmax attention: o = softmax(q k^T / sqrt(Dh)) v, grouped queries, window, QK norm (Vaswani "
    "2017); defaults of Llama (rotary base 10000, no biases), heads of 64 and first weights of "
    "GPT-2");

}  // namespace ls::layers
