#pragma once
#include "layers/limits.h"
#include "layers/mixers/mixer.h"
#include "layers/mixers/rope_scaling.h"

namespace ls::layers {

/// How positions enter softmax attention.
enum class Position : std::uint8_t { kRope, kNone };

}  // namespace ls::layers

template <>
struct ls::EnumNames<ls::layers::Position> {
  static constexpr std::string_view kKind = "kind of position";
  static constexpr std::array<std::string_view, 2> kNames = {"rope", "none"};
};

namespace ls::layers {

/// Softmax attention with grouped queries, rotary positions, sliding window and QK norm:
///   o_t = sum_s softmax_s(q_t k_s / sqrt(Dh)) v_s over visible s <= t.
/// Query head h reads key and value head h / (heads / kv_heads). QK norm is an RMS norm of each
/// head before the rotation, which turns channel i with channel i + Dh/2 (rope_scaling.h scales
/// it). A window of W sees W tokens, the current one included. No biases; first weights N(0,
/// init_std), those of the output projection divided by sqrt(2 blocks).
/// State: keys (rotated) and values of the tokens so far, or of the last window-1.
/// @source Vaswani 2017; Shazeer 1911.02150, Ainslie 2305.13245 (grouped queries), Su 2104.09864
class Attention final : public TokenMixer {
 public:
  struct Config {
    std::optional<Index> heads, kv_heads, head_dim;
    Position position = Position::kRope;
    double rope_theta = 10000;
    RopeScalingConfig rope_scaling;
    bool qk_norm = false;
    std::optional<Index> window;
    template <class F>
    void fields(F& f) {
      f("heads", heads,
        {.help = "query heads; width / 64 when null, at least 1", .min = 1, .max = kMaxHeads});
      f("kv_heads", kv_heads,
        {.help = "key and value heads, as many as query heads when null",
         .min = 1,
         .max = kMaxHeads});
      f("head_dim", head_dim,
        {.help = "channels of a head, width / heads when null", .min = 1, .max = kMaxHeadDim});
      f("position", position, {.help = "how the mixer tells positions apart"});
      f("rope_theta", rope_theta, {.help = "base of the rotary frequencies", .above = 0});
      f("rope_scaling", rope_scaling, {.help = "rotary positions beyond the trained length"});
      f.check(position == Position::kRope || rope_scaling.type == ops::RopeType::kDefault,
              "rope_scaling", "scales rotary positions; set position: rope, or leave it out");
      f("qk_norm", qk_norm, {.help = "RMS norm of each query and key head, with a learned gain"});
      f("window", window,
        {.help = "tokens that a query sees, the current one included; all when null", .min = 1});
    }
  };
  Attention(const Config& config, const MixerArgs& args);
  ag::Var forward(const ag::Var& x, SeqContext& seq) override;

 private:
  Config config_;
  Index heads_, kv_heads_, dim_;
  double eps_;
  Rotary rotary_;
  Linear qkv_, out_;
  ag::Var q_norm_, k_norm_;
};

}  // namespace ls::layers
