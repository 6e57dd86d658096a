#include "autograd/functional.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "layers/limits.h"
#include "layers/mixers/gates.h"
#include "layers/mixers/projections.h"

namespace ls::layers {
namespace {

/// Linear attention with a scalar gate per head and token: S_t = exp(g_t) S_{t-1} + k_t v_t^T,
/// o_t = q_t S_t / sqrt(Dk), g = logsigmoid(W_g x + b) / 16; a short convolution with SiLU on q, k,
/// v; o goes through an RMS norm of each head, times silu of an output gate. Wiring and defaults of
/// flash-linear-attention's layer, but that W_g is not decayed.
class SimpleGla final : public TokenMixer {
 public:
  struct Config {
    Index heads = 4;
    double expand_k = 1, expand_v = 1;
    Index conv = 4;
    double gate_normalizer = 16;
    template <class F>
    void fields(F& f) {
      f("heads", heads, {.help = "number of heads", .min = 1, .max = kMaxHeads});
      f("expand_k", expand_k,
        {.help = "query and key width over model width", .max = kMaxExpand, .above = 0});
      f("expand_v", expand_v,
        {.help = "value width over model width", .max = kMaxExpand, .above = 0});
      f("conv", conv,
        {.help = "taps of the short convolution on q, k, v; 0 for none",
         .min = 0,
         .max = kMaxTaps});
      f("gate_normalizer", gate_normalizer,
        {.help = "what divides the log of the gate: g = logsigmoid(W x) / gate_normalizer",
         .above = 0});
    }
  };
  SimpleGla(const Config& c, const MixerArgs& a)
      : c_(c), shape_(expanded_heads("simple_gla", a.width, c.heads, c.expand_k, c.expand_v)) {
    const auto [h, dk, dv] = shape_;
    const Init init = Init::normal(a.init_std);
    in_ = Linear(a.scope.child("in"), a.width, h * (2 * dk + 2 * dv), init);
    gate_ = Linear(a.scope.child("gate"), a.width, h, init, true, {.decay = false});
    conv_ = ShortConvLayer(a, h * (2 * dk + dv), c.conv);
    out_ = HeadOutput(a, h, dv);
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const auto [h, dk, dv] = shape_;
    const Index b = seq.batch(), t = seq.tokens();
    const auto halves = ag::split(in_(x), 2, {h * (2 * dk + dv), h * dv});
    const auto parts = ag::split(conv_(halves[0], seq, "conv"), 2, {h * dk, h * dk, h * dv});
    const ag::Var o =
        seq.scan<ops::DecayedLinear>("scan",
                                     {.q = ag::reshape(parts[0], {b, t, h, dk}),
                                      .k = ag::reshape(parts[1], {b, t, h, dk}),
                                      .v = ag::reshape(parts[2], {b, t, h, dv}),
                                      .g = log_sigmoid_decay(gate_(x), c_.gate_normalizer)},
                                     {.scale = inverse_root(dk)})
            .o;
    return out_(o, halves[1]);
  }

 private:
  Config c_;
  HeadShape shape_;
  Linear in_, gate_;
  ShortConvLayer conv_;
  HeadOutput out_;
};
LS_REGISTER(TokenMixer, SimpleGla, "simple_gla",
            "linear attention with a scalar gate per head: S = exp(g) S + k v^T; defaults of "
            "flash-linear-attention (Yang 2024)");

}  // namespace
}  // namespace ls::layers
