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
    Index heads = 16;
    std::optional<Index> value_heads;
    Index head_dim = 128;
    double expand_v = 1;
    std::optional<Index> rank;
    Index conv = 4;
    double lower_bound = 0;
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
      f("rank", rank,
        {.help = "of the maps to decays and output gate; a head's value channels when null",
         .min = 1,
         .max = kMaxWidth});
      f("conv", conv,
        {.help = "taps of the short convolution with SiLU on q, k, v; 0 for none",
         .min = 0,
         .max = kMaxTaps});
      f("lower_bound", lower_bound,
        {.help = "least log-decay of a token, made by a sigmoid; 0: none, made by softplus; Kimi's "
                 "kernels take -5",
         .max = 0});
      f("gate", gate, {.help = "multiply the normalised output by sigmoid(G_up G_down x + bias)"});
      f("eigenvalues", eigenvalues,
        {.help = "range of the transition's eigenvalues; [-1,1] doubles beta (Grazzi 2024)"});
      f.check(value_heads.value_or(heads) % heads == 0, "value_heads",
              "must be a multiple of heads");
    }
  };
  Kda(const Config& c, const MixerArgs& a)
      : eigenvalues_(c.eigenvalues),
        h_(c.heads),
        hv_(c.value_heads.value_or(c.heads)),
        dk_(c.head_dim),
        dv_(value_channels("kda", c.head_dim, c.expand_v)) {
    const Init init = Init::normal(a.init_std);
    const Index qkv = 2 * h_ * dk_ + hv_ * dv_, rank = c.rank.value_or(dv_);
    in_ = Linear(a.scope.child("in"), a.width, qkv, init);
    beta_ = Linear(a.scope.child("beta"), a.width, hv_, init, false, {.decay = false});
    alpha_ = LowRank(a.scope.child("alpha"), a.width, rank, hv_ * dk_, init,
                     {.weight = {.decay = false}});
    decay_ = c.lower_bound < 0 ? MambaDecay::bounded(a.scope, hv_, c.lower_bound, dk_)
                               : MambaDecay(a.scope, hv_, 1, 16, dk_);
    if (c.gate) {
      gate_ = LowRank(a.scope.child("out_gate"), a.width, rank, hv_ * dv_, init, {.bias = true});
    }
    conv_ = ShortConvLayer(a, qkv, c.conv);
    out_ = HeadOutput(a, hv_, dv_);
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const Index b = seq.batch(), t = seq.tokens();
    const auto parts = ag::split(conv_(in_(x), seq, "conv"), 2, {h_ * dk_, h_ * dk_, hv_ * dv_});
    const ag::Var decay = decay_(alpha_(x));
    const ag::Var o = seq.scan<ops::DeltaRule>("scan",
                                               {.q = ag::reshape(parts[0], {b, t, h_, dk_}),
                                                .k = ag::reshape(parts[1], {b, t, h_, dk_}),
                                                .v = ag::reshape(parts[2], {b, t, hv_, dv_}),
                                                .beta = beta_of(beta_(x), eigenvalues_),
                                                .gk = ag::reshape(decay, {b, t, hv_, dk_})},
                                               {.scale = inverse_root(dk_), .qk_l2norm = true})
                          .o;
    return out_(o, gate_ ? (*gate_)(x) : ag::Var(), true);
  }

 private:
  Eigenvalues eigenvalues_;
  Index h_, hv_, dk_, dv_;
  Linear in_, beta_;
  LowRank alpha_;
  std::optional<LowRank> gate_;
  MambaDecay decay_;
  ShortConvLayer conv_;
  HeadOutput out_;
};
LS_REGISTER(TokenMixer, Kda, "kda",
            "Kimi delta attention: S = (I - beta k k^T) Diag(alpha) S + beta k v^T, a decay by key "
            "channel (Kimi Linear 2025); defaults of flash-linear-attention");

}  // namespace
}  // namespace ls::layers
