#include "autograd/functional.h"
#include "core/ops/delta_rule/delta_rule.h"
#include "layers/limits.h"
#include "layers/mixers/gates.h"
#include "layers/mixers/projections.h"

namespace ls::layers {
namespace {

/// Gated DeltaNet: S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,
/// o_t = q_t S_t / sqrt(Dk), unit q and k, log alpha = -exp(A_log) softplus(W_a x + dt_bias),
/// beta = sigmoid(W_b x), doubled for eigenvalues in [-1,1]; a short convolution with SiLU on q, k,
/// v; o goes through an RMS norm of each head, times silu(W_g x) (Yang, Kautz, Hatamizadeh 2024).
/// `value_heads` is a multiple of `heads`: value head h reads key head h / (value_heads / heads).
/// Wiring and defaults of flash-linear-attention's layer, made for width 2048, but that W_a and W_b
/// are not decayed. NVlabs/GatedDeltaNet has 9 heads, key width 0.75 and value width 1.5 of the
/// model's, and a bias in W_b.
class GatedDeltaNet final : public TokenMixer {
 public:
  struct Config {
    Index heads = 6;
    std::optional<Index> value_heads;
    Index head_dim = 256;
    double expand_v = 2;
    Index conv = 4;
    bool gate = true;
    Eigenvalues eigenvalues = Eigenvalues::kPositive;
    template <class F>
    void fields(F& f) {
      f("heads", heads, {.help = "number of query and key heads", .min = 1, .max = kMaxHeads});
      f("value_heads", value_heads,
        {.help = "value heads, a multiple of heads; as many when null",
         .min = 1,
         .max = kMaxHeads});
      f("head_dim", head_dim,
        {.help = "query and key channels of a head", .min = 1, .max = kMaxHeadDim});
      f("expand_v", expand_v,
        {.help = "value channels of a head over head_dim", .max = kMaxExpand, .above = 0});
      f("conv", conv,
        {.help = "taps of the short convolution with SiLU on q, k, v; 0 for none",
         .min = 0,
         .max = kMaxTaps});
      f("gate", gate, {.help = "multiply the normalised output by silu(W_g x)"});
      f("eigenvalues", eigenvalues,
        {.help = "range of the transition's eigenvalues; [-1,1] doubles beta (Grazzi 2024)"});
      f.check(value_heads.value_or(heads) % heads == 0, "value_heads",
              "must be a multiple of heads");
    }
  };
  GatedDeltaNet(const Config& c, const MixerArgs& a)
      : c_(c), h_(c.heads), hv_(c.value_heads.value_or(c.heads)) {
    dk_ = c.head_dim;
    dv_ = value_channels("gated_deltanet", dk_, c.expand_v);
    const Init init = Init::normal(a.init_std);
    in_ = Linear(a.scope.child("in"), a.width, 2 * h_ * dk_ + hv_ * dv_ + (c.gate ? hv_ * dv_ : 0),
                 init);
    beta_ = Linear(a.scope.child("beta"), a.width, hv_, init, false, {.decay = false});
    alpha_ = Linear(a.scope.child("alpha"), a.width, hv_, init, false, {.decay = false});
    decay_ = MambaDecay(a.scope, hv_, 0, 16);
    conv_ = ShortConvLayer(a, 2 * h_ * dk_ + hv_ * dv_, c.conv);
    out_ = HeadOutput(a, hv_, dv_);
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const Index b = seq.batch(), t = seq.tokens();
    const Index conv_width = 2 * h_ * dk_ + hv_ * dv_;
    const ag::Var in = in_(x);
    ag::Var qkv = in, gate;
    if (c_.gate) {
      const auto halves = ag::split(in, 2, {conv_width, hv_ * dv_});
      qkv = halves[0];
      gate = halves[1];
    }
    const auto parts = ag::split(conv_(qkv, seq, "conv"), 2, {h_ * dk_, h_ * dk_, hv_ * dv_});
    const ag::Var beta = beta_of(beta_(x), c_.eigenvalues);
    const ag::Var o = seq.scan<ops::DeltaRule>("scan",
                                               {.q = ag::reshape(parts[0], {b, t, h_, dk_}),
                                                .k = ag::reshape(parts[1], {b, t, h_, dk_}),
                                                .v = ag::reshape(parts[2], {b, t, hv_, dv_}),
                                                .beta = beta,
                                                .g = decay_(alpha_(x))},
                                               {.scale = inverse_root(dk_), .qk_l2norm = true})
                          .o;
    return out_(o, gate);
  }

 private:
  Config c_;
  Index h_, hv_, dk_ = 0, dv_ = 0;
  Linear in_, beta_, alpha_;
  MambaDecay decay_;
  ShortConvLayer conv_;
  HeadOutput out_;
};
LS_REGISTER(TokenMixer, GatedDeltaNet, "gated_deltanet",
            "gated delta rule: S = alpha (I - beta k k^T) S + beta k v^T (Yang, Kautz, Hatamizadeh "
            "2024); defaults of flash-linear-attention");

}  // namespace
}  // namespace ls::layers
