#include "core/ops/delta_rule/delta_rule.h"
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
    ExpandedHeads heads;
    Index conv = 4;
    bool gate = false;
    Eigenvalues eigenvalues = Eigenvalues::kPositive;
    template <class F>
    void fields(F& f) {
      heads.fields(f);
      conv_field(f, conv);
      f("gate", gate, {.help = "multiply the normalised output by silu(W_g x)"});
      eigenvalues_field(f, eigenvalues);
    }
  };
  DeltaNet(const Config& c, const MixerArgs& a)
      : eigenvalues_(c.eigenvalues), shape_(c.heads.shape("deltanet", a.width)) {
    in_ = HeadInput(a, shape_, {.conv = c.conv, .gate = c.gate});
    beta_ = Linear(a.scope.child("beta"), a.width, shape_.heads, Init::normal(a.init_std), false,
                   {.decay = false});
    out_ = HeadOutput(a, shape_.heads, shape_.value_dim);
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const auto [q, k, v, gate] = in_(x, seq);
    const ag::Var o =
        seq.scan<ops::DeltaRule>("scan",
                                 {.q = q, .k = k, .v = v, .beta = beta_of(beta_(x), eigenvalues_)},
                                 {.scale = inverse_root(shape_.key_dim), .qk_l2norm = true})
            .o;
    return out_(o, gate);
  }

 private:
  Eigenvalues eigenvalues_;
  HeadShape shape_;
  HeadInput in_;
  Linear beta_;
  HeadOutput out_;
};
LS_REGISTER(TokenMixer, DeltaNet, "deltanet",
            "delta rule: S = (I - beta k k^T) S + beta k v^T (Schlag 2021, Yang 2024); defaults of "
            "flash-linear-attention");

}  // namespace
}  // namespace ls::layers
