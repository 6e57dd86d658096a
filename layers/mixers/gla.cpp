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
    ExpandedHeads heads{.expand_k = 0.5};
    Index gate_rank = 16;
    double gate_normalizer = 16;
    Index conv = 0;
    bool gate = true;
    template <class F>
    void fields(F& f) {
      heads.fields(f);
      f("gate_rank", gate_rank, {.help = "rank of the map to decays", .min = 1, .max = kMaxWidth});
      f("gate_normalizer", gate_normalizer,
        {.help = "what divides the log of the decay: g = logsigmoid(W x) / gate_normalizer",
         .above = 0});
      conv_field(f, conv);
      f("gate", gate, {.help = "multiply the normalised output by silu(W_o x)"});
    }
  };
  Gla(const Config& c, const MixerArgs& a)
      : normalizer_(c.gate_normalizer), shape_(c.heads.shape("gla", a.width)) {
    in_ = HeadInput(a, shape_, {.conv = c.conv, .gate = c.gate});
    decay_ = LowRank(a.scope.child("gate"), a.width, c.gate_rank, shape_.keys(),
                     Init::normal(a.init_std), {.bias = true, .weight = {.decay = false}});
    out_ = HeadOutput(a, shape_.heads, shape_.value_dim);
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const auto [q, k, v, gate] = in_(x, seq);
    const ag::Var decay = ag::reshape(log_sigmoid_decay(decay_(x), normalizer_), k.shape());
    const ag::Var o = seq.scan<ops::DecayedLinear>("scan", {.q = q, .k = k, .v = v, .gk = decay},
                                                   {.scale = inverse_root(shape_.key_dim)})
                          .o;
    return out_(o, gate);
  }

 private:
  double normalizer_;
  HeadShape shape_;
  HeadInput in_;
  LowRank decay_;
  HeadOutput out_;
};
LS_REGISTER(
    TokenMixer, Gla, "gla",
    "gated linear attention: S = Diag(exp(g)) S + k v^T, a decay by key channel (Yang 2023); "
    "defaults of flash-linear-attention");

}  // namespace
}  // namespace ls::layers
