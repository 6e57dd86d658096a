#include "autograd/functional.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "layers/limits.h"
#include "layers/mixers/gates.h"
#include "layers/mixers/projections.h"

namespace ls::layers {
namespace {

/// Gated linear attention, a decay for each key channel: S_t = Diag(exp(g_t)) S_{t-1} + k_t v_t^T,
/// o_t = q_t S_t / sqrt(Dk), g = logsigmoid(W_up W_down x + b) / 16 with a rank of 16; o goes
/// through an RMS norm of each head, times silu(W_o x) (Yang 2312.06635). Wiring and defaults of
/// flash-linear-attention's layer, but that W_up and W_down are not decayed.
class Gla final : public TokenMixer {
 public:
  struct Config {
    Index heads = 4;
    double expand_k = 0.5, expand_v = 1;
    Index gate_rank = 16;
    double gate_normalizer = 16;
    Index conv = 0;
    bool gate = true;
    template <class F>
    void fields(F& f) {
      f("heads", heads, {.help = "number of heads", .min = 1, .max = kMaxHeads});
      f("expand_k", expand_k,
        {.help = "query and key width over model width", .max = kMaxExpand, .above = 0});
      f("expand_v", expand_v,
        {.help = "value width over model width", .max = kMaxExpand, .above = 0});
      f("gate_rank", gate_rank, {.help = "rank of the map to decays", .min = 1, .max = kMaxWidth});
      f("gate_normalizer", gate_normalizer,
        {.help = "what divides the log of the decay: g = logsigmoid(W x) / gate_normalizer",
         .above = 0});
      f("conv", conv,
        {.help = "taps of a short convolution with SiLU on q, k, v; 0 for none",
         .min = 0,
         .max = kMaxTaps});
      f("gate", gate, {.help = "multiply the normalised output by silu(W_o x)"});
    }
  };
  Gla(const Config& c, const MixerArgs& a)
      : c_(c), shape_(expanded_heads("gla", a.width, c.heads, c.expand_k, c.expand_v)) {
    const auto [h, dk, dv] = shape_;
    const Init init = Init::normal(a.init_std);
    in_ = Linear(a.scope.child("in"), a.width, h * (2 * dk + dv + (c.gate ? dv : 0)), init);
    decay_ = LowRank(a.scope.child("gate"), a.width, c.gate_rank, h * dk, init,
                     {.bias = true, .weight = {.decay = false}});
    conv_ = ShortConvLayer(a, h * (2 * dk + dv), c.conv);
    out_ = HeadOutput(a, h, dv);
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const auto [h, dk, dv] = shape_;
    const Index b = seq.batch(), t = seq.tokens();
    ag::Var qkv = in_(x), gate;
    if (c_.gate) {
      const auto halves = ag::split(qkv, 2, {h * (2 * dk + dv), h * dv});
      qkv = halves[0];
      gate = halves[1];
    }
    const auto parts = ag::split(conv_(qkv, seq, "conv"), 2, {h * dk, h * dk, h * dv});
    const ag::Var g = log_sigmoid_decay(decay_(x), c_.gate_normalizer);
    const ag::Var o = seq.scan<ops::DecayedLinear>("scan",
                                                   {.q = ag::reshape(parts[0], {b, t, h, dk}),
                                                    .k = ag::reshape(parts[1], {b, t, h, dk}),
                                                    .v = ag::reshape(parts[2], {b, t, h, dv}),
                                                    .gk = ag::reshape(g, {b, t, h, dk})},
                                                   {.scale = inverse_root(dk)})
                          .o;
    return out_(o, gate);
  }

 private:
  Config c_;
  HeadShape shape_;
  Linear in_;
  LowRank decay_;
  ShortConvLayer conv_;
  HeadOutput out_;
};
LS_REGISTER(
    TokenMixer, Gla, "gla",
    "gated linear attention: S = Diag(exp(g)) S + k v^T, a decay by key channel (Yang 2023); "
    "defaults of flash-linear-attention");

}  // namespace
}  // namespace ls::layers
