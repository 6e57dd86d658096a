#include "autograd/functional.h"
#include "core/ops/delta_rule/delta_rule.h"
#include "layers/limits.h"
#include "layers/mixers/gates.h"
#include "layers/mixers/projections.h"

namespace ls::layers {
namespace {

/// Kimi delta attention: S_t = (I - beta_t k_t k_t^T) Diag(alpha_t) S_{t-1} + beta_t k_t v_t^T,
/// o_t = q_t S_t / sqrt(Dk), unit q and k, a decay for each key channel, log alpha = -exp(A_log)
/// softplus(W_up W_down x + dt_bias) with A_log by head and dt_bias by channel, or bounded, low
/// sigmoid(exp(A_log) (W_up W_down x + dt_bias)), beta = sigmoid(W_b
/// x), doubled for eigenvalues in [-1,1]; a short convolution with SiLU on q, k, v; o goes through
/// an RMS norm of each head, times sigmoid(G_up G_down x + bias). Both low-rank maps have the rank
/// of a head's value channels unless given (Kimi Linear 2025). `value_heads` is a multiple of
/// `heads`: value head h reads key head h / (value_heads / heads). Wiring and defaults of
/// flash-linear-attention's layer, made for width 2048, but that W_up W_down and W_b are not
/// decayed.
class Kda final : public TokenMixer {
 public:
  struct Config {
    SizedHeads heads{.heads = 16, .head_dim = 128};
    std::optional<Index> rank;
    Index conv = 4;
    double lower_bound = 0;
    bool gate = true;
    Eigenvalues eigenvalues = Eigenvalues::kPositive;
    template <class F>
    void fields(F& f) {
      heads.fields(f);
      f("rank", rank,
        {.help = "of the maps to decays and output gate; a head's value channels when null",
         .min = 1,
         .max = kMaxWidth});
      conv_field(f, conv);
      f("lower_bound", lower_bound,
        {.help = "least log-decay of a token, made by a sigmoid; 0: none, made by softplus; Kimi's "
                 "kernels take -5",
         .max = 0});
      f("gate", gate, {.help = "multiply the normalised output by sigmoid(G_up G_down x + bias)"});
      eigenvalues_field(f, eigenvalues);
    }
  };
  Kda(const Config& c, const MixerArgs& a)
      : eigenvalues_(c.eigenvalues), shape_(c.heads.shape("kda")) {
    const Init init = Init::normal(a.init_std);
    const Index heads = shape_.value_heads, dk = shape_.key_dim,
                rank = c.rank.value_or(shape_.value_dim);
    in_ = HeadInput(a, shape_, {.conv = c.conv});
    beta_ = Linear(a.scope.child("beta"), a.width, heads, init, false, {.decay = false});
    alpha_ = LowRank(a.scope.child("alpha"), a.width, rank, heads * dk, init,
                     {.weight = {.decay = false}});
    decay_ = c.lower_bound < 0 ? MambaDecay::bounded(a.scope, heads, c.lower_bound, dk)
                               : MambaDecay(a.scope, heads, 1, 16, dk);
    if (c.gate) {
      gate_ =
          LowRank(a.scope.child("out_gate"), a.width, rank, shape_.values(), init, {.bias = true});
    }
    out_ = HeadOutput(a, heads, shape_.value_dim);
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const HeadInput::Parts in = in_(x, seq);
    const ag::Var decay = ag::reshape(
        decay_(alpha_(x)), {seq.batch(), seq.tokens(), shape_.value_heads, shape_.key_dim});
    const ag::Var o =
        seq.scan<ops::DeltaRule>("scan",
                                 {.q = in.q,
                                  .k = in.k,
                                  .v = in.v,
                                  .beta = beta_of(beta_(x), eigenvalues_),
                                  .gk = decay},
                                 {.scale = inverse_root(shape_.key_dim), .qk_l2norm = true})
            .o;
    return out_(o, gate_ ? (*gate_)(x) : ag::Var(), true);
  }

 private:
  Eigenvalues eigenvalues_;
  HeadShape shape_;
  HeadInput in_;
  Linear beta_;
  LowRank alpha_;
  std::optional<LowRank> gate_;
  MambaDecay decay_;
  HeadOutput out_;
};
LS_REGISTER(TokenMixer, Kda, "kda",
            "Kimi delta attention: S = (I - beta k k^T) Diag(alpha) S + beta k v^T, a decay by key "
            "channel (Kimi Linear 2025); defaults of flash-linear-attention");

}  // namespace
}  // namespace ls::layers
