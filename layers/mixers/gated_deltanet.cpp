#include "core/ops/delta_rule/delta_rule.h"
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
    SizedHeads heads{.heads = 6, .head_dim = 256, .expand_v = 2};
    Index conv = 4;
    bool gate = true;
    Eigenvalues eigenvalues = Eigenvalues::kPositive;
    template <class F>
    void fields(F& f) {
      heads.fields(f);
      conv_field(f, conv);
      f("gate", gate, {.help = "multiply the normalised output by silu(W_g x)"});
      eigenvalues_field(f, eigenvalues);
    }
  };
  GatedDeltaNet(const Config& c, const MixerArgs& a)
      : eigenvalues_(c.eigenvalues), shape_(c.heads.shape("gated_deltanet")) {
    const Index heads = shape_.value_heads;
    const Init init = Init::normal(a.init_std);
    in_ = HeadInput(a, shape_, {.conv = c.conv, .gate = c.gate});
    beta_ = Linear(a.scope.child("beta"), a.width, heads, init, false, {.decay = false});
    alpha_ = Linear(a.scope.child("alpha"), a.width, heads, init, false, {.decay = false});
    decay_ = MambaDecay(a.scope, heads, 0, 16);
    out_ = HeadOutput(a, heads, shape_.value_dim);
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const auto [q, k, v, gate] = in_(x, seq);
    const ag::Var o =
        seq.scan<ops::DeltaRule>("scan",
                                 {.q = q,
                                  .k = k,
                                  .v = v,
                                  .beta = beta_of(beta_(x), eigenvalues_),
                                  .g = decay_(alpha_(x))},
                                 {.scale = inverse_root(shape_.key_dim), .qk_l2norm = true})
            .o;
    return out_(o, gate);
  }

 private:
  Eigenvalues eigenvalues_;
  HeadShape shape_;
  HeadInput in_;
  Linear beta_, alpha_;
  MambaDecay decay_;
  HeadOutput out_;
};
LS_REGISTER(TokenMixer, GatedDeltaNet, "gated_deltanet",
            "gated delta rule: S = alpha (I - beta k k^T) S + beta k v^T (Yang, Kautz, Hatamizadeh "
            "2024); defaults of flash-linear-attention");

}  // namespace
}  // namespace ls::layers
