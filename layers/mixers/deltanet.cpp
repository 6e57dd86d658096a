#include "autograd/functional.h"
#include "core/ops/delta_rule/delta_rule.h"
#include "layers/limits.h"
#include "layers/mixers/projections.h"

namespace ls::layers {
namespace {

/// DeltaNet: S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T, o_t = q_t S_t / sqrt(Dk),
/// unit q and k, beta = sigmoid(W_b x), doubled for eigenvalues in [-1,1]; a short convolution with
/// SiLU on q, k, v; o goes through an RMS norm of each head. Wiring and defaults of
/// flash-linear-attention's layer (4 heads; its model config says 16), but that W_b is not decayed
/// (Schlag 2021, Yang 2024).
class DeltaNet final : public TokenMixer {
 public:
  struct Config {
    Index heads = 4;
    double expand_k = 1, expand_v = 1;
    Index conv = 4;
    bool gate = false;
    Eigenvalues eigenvalues = Eigenvalues::kPositive;
    template <class F>
    void fields(F& f) {
      f("heads", heads, {.help = "number of heads", .min = 1, .max = kMaxHeads});
      f("expand_k", expand_k,
        {.help = "query and key width over model width", .max = kMaxExpand, .above = 0});
      f("expand_v", expand_v,
        {.help = "value width over model width", .max = kMaxExpand, .above = 0});
      f("conv", conv,
        {.help = "taps of the short convolution with SiLU on q, k, v; 0 for none",
         .min = 0,
         .max = kMaxTaps});
      f("gate", gate, {.help = "multiply the normalised output by silu(W_g x)"});
      f("eigenvalues", eigenvalues,
        {.help = "range of the transition's eigenvalues; [-1,1] doubles beta (Grazzi 2024)"});
    }
  };
  DeltaNet(const Config& c, const MixerArgs& a)
      : c_(c), shape_(expanded_heads("deltanet", a.width, c.heads, c.expand_k, c.expand_v)) {
    const auto [h, dk, dv] = shape_;
    const Init init = Init::normal(a.init_std);
    in_ = Linear(a.scope.child("in"), a.width, h * (2 * dk + dv + (c.gate ? dv : 0)), init);
    beta_ = Linear(a.scope.child("beta"), a.width, h, init, false, {.decay = false});
    conv_ = ShortConvLayer(a, h * (2 * dk + dv), c.conv);
    out_ = HeadOutput(a, h, dv);
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const auto [h, dk, dv] = shape_;
    const Index b = seq.batch(), t = seq.tokens();
    const ag::Var in = in_(x);
    ag::Var qkv = in, gate;
    if (c_.gate) {
      const auto halves = ag::split(in, 2, {h * (2 * dk + dv), h * dv});
      qkv = halves[0];
      gate = halves[1];
    }
    const auto parts = ag::split(conv_(qkv, seq, "conv"), 2, {h * dk, h * dk, h * dv});
    const ag::Var beta = beta_of(beta_(x), c_.eigenvalues);
    const ag::Var o = seq.scan<ops::DeltaRule>("scan",
                                               {.q = ag::reshape(parts[0], {b, t, h, dk}),
                                                .k = ag::reshape(parts[1], {b, t, h, dk}),
                                                .v = ag::reshape(parts[2], {b, t, h, dv}),
                                                .beta = beta},
                                               {.scale = inverse_root(dk), .qk_l2norm = true})
                          .o;
    return out_(o, gate);
  }

 private:
  Config c_;
  HeadShape shape_;
  Linear in_, beta_;
  ShortConvLayer conv_;
  HeadOutput out_;
};
LS_REGISTER(TokenMixer, DeltaNet, "deltanet",
            "delta rule: S = (I - beta k k^T) S + beta k v^T (Schlag 2021, Yang 2024); defaults of "
            "flash-linear-attention");

}  // namespace
}  // namespace ls::layers
