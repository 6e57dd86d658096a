#include "core/ops/decayed_linear/decayed_linear.h"
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
    ExpandedHeads heads;
    Index conv = 4;
    double gate_normalizer = 16;
    template <class F>
    void fields(F& f) {
      heads.fields(f);
      conv_field(f, conv);
      f("gate_normalizer", gate_normalizer,
        {.help = "what divides the log of the gate: g = logsigmoid(W x) / gate_normalizer",
         .above = 0});
    }
  };
  SimpleGla(const Config& c, const MixerArgs& a)
      : normalizer_(c.gate_normalizer), shape_(c.heads.shape("simple_gla", a.width)) {
    in_ = HeadInput(a, shape_, {.conv = c.conv, .gate = true});
    decay_ = Linear(a.scope.child("gate"), a.width, shape_.heads, Init::normal(a.init_std), true,
                    {.decay = false});
    out_ = HeadOutput(a, shape_.heads, shape_.value_dim);
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const auto [q, k, v, gate] = in_(x, seq);
    const ag::Var decay = log_sigmoid_decay(decay_(x), normalizer_);
    const ag::Var o = seq.scan<ops::DecayedLinear>("scan", {.q = q, .k = k, .v = v, .g = decay},
                                                   {.scale = inverse_root(shape_.key_dim)})
                          .o;
    return out_(o, gate);
  }

 private:
  double normalizer_;
  HeadShape shape_;
  HeadInput in_;
  Linear decay_;
  HeadOutput out_;
};
LS_REGISTER(TokenMixer, SimpleGla, "simple_gla",
            "linear attention with a scalar gate per head: S = exp(g) S + k v^T; defaults of "
            "flash-linear-attention (Yang 2024)");

}  // namespace
}  // namespace ls::layers
