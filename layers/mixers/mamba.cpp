#include "autograd/functional.h"
#include "core/ops/activation/activation.h"
#include "core/ops/bias_act/bias_act.h"
#include "core/ops/glu/glu.h"
#include "core/ops/rms_norm/rms_norm.h"
#include "core/ops/scale_add/scale_add.h"
#include "core/ops/selective_scan/selective_scan.h"
#include "layers/limits.h"
#include "layers/mixers/gates.h"
#include "layers/mixers/projections.h"

namespace ls::layers {
namespace {

/// log 1, log 2, ... log n in each row: rates of S4D-real.
Init log_of_places(Index n) {
  return {[n](Rng&, std::span<double> x) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = std::log(static_cast<double>(static_cast<Index>(i) % n + 1));
    }
  }};
}

/// Mamba: h_t[d,s] = exp(dt_t[d] A[d,s]) h_{t-1}[d,s] + dt_t[d] x_t[d] B_t[s],
/// y_t[d] = C_t h_t[d] + D[d] x_t[d], A = -exp(A_log), dt = softplus(W_up W_down x + bias). x goes
/// through a short convolution with SiLU, dt, B and C are made of what comes out, y silu(z) is
/// projected back (Gu & Dao 2312.00752; the Euler step for B is that of its code). Wiring and
/// defaults of state-spaces/mamba. Not selective, dt, B and C are parameters: a linear
/// time-invariant system, the paper's ablation.
class Mamba final : public TokenMixer {
 public:
  struct Config {
    double expand = 2;
    Index state_dim = 16;
    std::optional<Index> dt_rank;
    Index conv = 4;
    bool conv_bias = true, selective = true, norm_inputs = false;
    double norm_inputs_eps = 1e-6;
    template <class F>
    void fields(F& f) {
      f("expand", expand, {.help = "inner width over model width", .max = kMaxExpand, .above = 0});
      f("state_dim", state_dim,
        {.help = "elements of the state of a channel", .min = 1, .max = kMaxHeadDim});
      f("dt_rank", dt_rank,
        {.help = "rank of the steps dt, width / 16 rounded up when null",
         .min = 1,
         .max = kMaxHeadDim});
      f("conv", conv,
        {.help = "taps of the short convolution with SiLU on x; 0 for none",
         .min = 0,
         .max = kMaxTaps});
      f("conv_bias", conv_bias, {.help = "add a bias in the convolution"});
      f("selective", selective,
        {.help = "dt, B and C follow from the input; else they are the same for all tokens"});
      f("norm_inputs", norm_inputs,
        {.help = "RMS norm without gain of dt's low rank, B and C, as Falcon Mamba has"});
      f("norm_inputs_eps", norm_inputs_eps,
        {.help = "what is added to those mean squares", .min = 0});
      f.check(selective || !norm_inputs, "norm_inputs", "is for selective: true");
    }
  };
  static constexpr MixerTraits kTraits = {.small = {{{"state_dim", 4}, {"dt_rank", 2}}}};

  Mamba(const Config& c, const MixerArgs& a)
      : c_(c), inner_(whole(a.width, c)), rank_(c.dt_rank.value_or((a.width + 15) / 16)) {
    const Init init = Init::normal(a.init_std);
    in_ = Linear(a.scope.child("in"), a.width, 2 * inner_, init);
    conv_ = ShortConvLayer(a, inner_, c.conv, c.conv_bias);
    const Scope dt = a.scope.child("dt");
    if (c.selective) {
      inputs_ = Linear(a.scope.child("x"), inner_, rank_ + 2 * c.state_dim, init);
      const double bound = inverse_root(rank_);
      dt_ = Linear(dt, rank_, inner_, Init::uniform(-bound, bound));
    } else {
      b_ = a.scope.param("b", {c.state_dim}, Init::constant(1), {.decay = false});
      read_ = a.scope.param("c", {c.state_dim}, Init::normal(1), {.decay = false});
    }
    dt_bias_ = dt.param("bias", {inner_}, softplus_steps(), {.decay = false});
    a_log_ =
        a.scope.param("a_log", {inner_, c.state_dim}, log_of_places(c.state_dim), {.decay = false});
    skip_ = a.scope.param("skip", {inner_}, Init::constant(1), {.decay = false});
    out_ = Linear(a.scope.child("out"), inner_, a.width, init);
  }
  ag::Var forward(const ag::Var& u, SeqContext& seq) override {
    const auto parts = ag::split(in_(u), 2, {inner_, inner_});
    const ag::Var x = conv_(parts[0], seq, "conv");
    const Inputs inputs = c_.selective ? selected(x) : constant(x);
    const Shape groups = {seq.batch(), seq.tokens(), 1, c_.state_dim};
    const ag::Var o = seq.scan<ops::SelectiveScan>("scan", {.x = x,
                                                            .dt = inputs.dt,
                                                            .a = rates(),
                                                            .b = ag::reshape(inputs.b, groups),
                                                            .c = ag::reshape(inputs.c, groups)})
                          .y;
    const ag::Var y = ag::call<ops::ScaleAdd>({.x = x, .gain = skip_, .base = o}).y;
    return out_(ag::call<ops::Glu>({.gate = parts[1], .up = y}).y);
  }

 private:
  struct Inputs {
    ag::Var dt, b, c;  ///< [B,T,inner] in acc, [B,T,state_dim], [B,T,state_dim]
  };
  ag::Var steps(const ag::Var& logits) const {
    return ag::call<ops::BiasAct>(
               {.x = ag::cast(logits, acc_dtype(logits.dtype())), .bias = dt_bias_},
               {.activation = ops::Act::kSoftplus})
        .y;
  }
  ag::Var rates() const {
    return ag::scale(ag::call<ops::Activation>({.x = a_log_}, {.activation = ops::Act::kExp}).y,
                     -1);
  }
  Inputs selected(const ag::Var& x) const {
    auto parts = ag::split(inputs_(x), 2, {rank_, c_.state_dim, c_.state_dim});
    if (c_.norm_inputs) {
      for (ag::Var& part : parts) {
        part = ag::call<ops::RmsNorm>({.x = part}, {.eps = c_.norm_inputs_eps}).y;
      }
    }
    return {steps(dt_(parts[0])), parts[1], parts[2]};
  }
  /// The same for every token.
  Inputs constant(const ag::Var& x) const {
    const auto filled = [&](double value, Index channels, DType dtype) {
      return ag::Var(
          Tensor::full({x.size(0), x.size(1), channels}, dtype, value, x.value().device()));
    };
    const ag::Var ones = filled(1, c_.state_dim, x.dtype());
    return {steps(filled(0, inner_, acc_dtype(x.dtype()))),
            ag::call<ops::ScaleAdd>({.x = ones, .gain = b_}).y,
            ag::call<ops::ScaleAdd>({.x = ones, .gain = read_}).y};
  }
  /// The inner width, checked.
  static Index whole(Index width, const Config& c) {
    const double inner = static_cast<double>(width) * c.expand;
    const auto n = static_cast<Index>(std::llround(inner));
    LS_CHECK(n > 0 && std::abs(inner - static_cast<double>(n)) < 1e-9, kConfig,
             "mamba: width {} times expand = {} gives {} channels, expected a whole number, 1 or "
             "more; change expand",
             width, c.expand, inner);
    return n;
  }
  Config c_;
  Index inner_, rank_;
  Linear in_, inputs_, dt_, out_;
  ShortConvLayer conv_;
  ag::Var dt_bias_, a_log_, b_, read_, skip_;
};
LS_REGISTER(TokenMixer, Mamba, "mamba",
            "selective scan: h = exp(dt A) h + dt x B^T for each channel, y = C h + D x (Gu & Dao "
            "2023); defaults of state-spaces/mamba");

}  // namespace
}  // namespace ls::layers
