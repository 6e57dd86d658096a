#include "autograd/functional.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/rms_norm/rms_norm.h"
#include "core/ops/scale_add/scale_add.h"
#include "layers/limits.h"
#include "layers/mixers/gates.h"
#include "layers/mixers/projections.h"

namespace ls::layers {
namespace {

/// Mamba-2: S_t = exp(dt_t A) S_{t-1} + B_t (dt_t x_t)^T, y_t = C_t S_t + D x_t, A = -exp(A_log)
/// and dt = softplus(W_dt u + dt_bias) of a head, in [dt_min, dt_max]; B and C are shared by the
/// heads of a group. A short convolution with SiLU on x, B and C; y silu(z) goes through an RMS
/// norm of each group's channels (Dao & Gu 2405.21060). Wiring and defaults of state-spaces/mamba.
class Mamba2 final : public TokenMixer {
 public:
  struct Config {
    double expand = 2;
    Index head_dim = 64, state_dim = 128, groups = 1;
    Index conv = 4;
    bool conv_bias = true;
    double dt_min = 0, dt_max = 0;
    template <class F>
    void fields(F& f) {
      f("expand", expand, {.help = "inner width over model width", .max = kMaxExpand, .above = 0});
      f("head_dim", head_dim, {.help = "inner channels of a head", .min = 1, .max = kMaxHeadDim});
      f("state_dim", state_dim,
        {.help = "channels of B and C: rows of a head's state", .min = 1, .max = kMaxHeadDim});
      f("groups", groups,
        {.help = "groups of heads, each with its own B, C and norm", .min = 1, .max = kMaxHeads});
      f("conv", conv,
        {.help = "taps of the short convolution with SiLU on x, B, C; 0 for none",
         .min = 0,
         .max = kMaxTaps});
      f("conv_bias", conv_bias, {.help = "add a bias in the convolution"});
      f("dt_min", dt_min, {.help = "the least step dt, clamped", .min = 0});
      f("dt_max", dt_max, {.help = "the largest step dt, clamped; 0 for none", .min = 0});
      f.check(dt_max == 0 || dt_max > dt_min, "dt_max",
              "must be above dt_min, or no step has a gradient; 0 is no limit");
    }
  };
  Mamba2(const Config& c, const MixerArgs& a)
      : c_(c), eps_(a.norm_eps), inner_(whole(a.width, c)), heads_(inner_ / c.head_dim) {
    const Init init = Init::normal(a.init_std);
    const Index channels = inner_ + 2 * c.groups * c.state_dim;
    in_ = Linear(a.scope.child("in"), a.width, inner_ + channels + heads_, init);
    conv_ = ShortConvLayer(a, channels, c.conv, c.conv_bias);
    decay_ = MambaDecay(a.scope, heads_, 1, 16);
    decay_.limit_steps(c.dt_min, c.dt_max);
    skip_ = a.scope.param("skip", {heads_}, Init::constant(1), {.decay = false});
    norm_ =
        a.scope.child("out_norm").param("weight", {inner_}, Init::constant(1), {.decay = false});
    out_ = Linear(a.scope.child("out"), inner_, a.width, init);
  }
  ag::Var forward(const ag::Var& u, SeqContext& seq) override {
    const Index b = seq.batch(), t = seq.tokens(), keys = c_.groups * c_.state_dim;
    const auto parts = ag::split(in_(u), 2, {inner_, inner_ + 2 * keys, heads_});
    const auto xbc = ag::split(conv_(parts[1], seq, "conv"), 2, {inner_, keys, keys});
    const ag::Var &z = parts[0], &x = xbc[0];
    const ag::Var written = ag::call<ops::ScaleAdd>({.x = x, .factor = decay_.step(parts[2])}).y;
    const ag::Var o = seq.scan<ops::DecayedLinear>(
                             "scan", {.q = ag::reshape(xbc[2], {b, t, c_.groups, c_.state_dim}),
                                      .k = ag::reshape(xbc[1], {b, t, c_.groups, c_.state_dim}),
                                      .v = ag::reshape(written, {b, t, heads_, c_.head_dim}),
                                      .g = decay_(parts[2])})
                          .o;
    const ag::Var y =
        ag::call<ops::ScaleAdd>({.x = x, .gain = skip_, .base = ag::reshape(o, x.shape())}).y;
    return out_(ag::call<ops::RmsNorm>(
                    {.x = y, .weight = norm_, .z = z},
                    {.eps = eps_, .group_size = inner_ / c_.groups, .norm_before_gate = false})
                    .y);
  }

 private:
  /// The inner width, checked.
  static Index whole(Index width, const Config& c) {
    const double inner = static_cast<double>(width) * c.expand;
    const auto n = static_cast<Index>(std::llround(inner));
    LS_CHECK(n > 0 && std::abs(inner - static_cast<double>(n)) < 1e-9 && n % c.head_dim == 0 &&
                 n / c.head_dim % c.groups == 0,
             kConfig,
             "mamba2: width {} times expand = {} gives {} channels, no whole number of heads of {} "
             "in {} groups; change expand, head_dim or groups",
             width, c.expand, inner, c.head_dim, c.groups);
    return n;
  }
  Config c_;
  double eps_;
  Index inner_, heads_;
  Linear in_, out_;
  ShortConvLayer conv_;
  MambaDecay decay_;
  ag::Var skip_, norm_;
};
LS_REGISTER(TokenMixer, Mamba2, "mamba2",
            "state-space duality: S = exp(dt A) S + B (dt x)^T, y = C S + D x, B and C shared by "
            "heads (Dao & Gu 2024); defaults of state-spaces/mamba");

}  // namespace
}  // namespace ls::layers
