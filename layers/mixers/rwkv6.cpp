#include "autograd/functional.h"
#include "core/ops/activation/activation.h"
#include "core/ops/bias_act/bias_act.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/group_norm/group_norm.h"
#include "core/ops/token_shift/token_shift.h"
#include "layers/limits.h"
#include "layers/mixers/gates.h"
#include "layers/mixers/rwkv.h"

namespace ls::layers {
namespace {

/// RWKV-6 (Finch) time mix: o_t = r_t (S_{t-1} + (u * k_t) v_t^T), S_t = Diag(exp(g_t)) S_{t-1} +
/// k_t v_t^T, a decay for each key channel and a bonus u for the token itself. Each of w, k, v, r,
/// z is projected from a mix of its own with the token before, x_t + d_t (mu + B tanh(A x'_t)), d_t
/// = x_{t-1} - x_t, x' a mix with constant shares; g = -exp(w_0 + W_up tanh(W_down x_w)); o goes
/// through a layer norm of each head, times silu(z) (Peng 2404.05892). Wiring, defaults and first
/// values of BlinkDL/RWKV-LM (x060); A and W_down are 0 at first.
class Rwkv6 final : public TokenMixer {
 public:
  struct Config {
    Index head_dim = 64;
    Index shift_rank = 32, decay_rank = 64;
    template <class F>
    void fields(F& f) {
      f("head_dim", head_dim, {.help = "channels of a head", .min = 1, .max = kMaxHeadDim});
      f("shift_rank", shift_rank,
        {.help = "rank of the map to each of the five mixes with the token before",
         .min = 1,
         .max = kMaxWidth});
      f("decay_rank", decay_rank,
        {.help = "rank of the map to decays", .min = 1, .max = kMaxWidth});
    }
  };
  Rwkv6(const Config& c, const MixerArgs& a) : c_(c), width_(a.width) {
    LS_CHECK(width_ % c.head_dim == 0, kConfig,
             "rwkv6: head_dim {} does not divide width {}; change head_dim", c.head_dim, width_);
    const Init init = Init::normal(a.init_std), none = Init::constant(0),
               small = Init::uniform(-0.01, 0.01);
    make_mixes(a, none, small);
    const auto square = [&](const char* name) {
      return Linear(a.scope.child(name), width_, width_, init);
    };
    r_ = square("r");
    k_ = square("k");
    v_ = square("v");
    z_ = square("z");
    out_ = square("out");
    decay_ = LowRank(a.scope.child("alpha"), width_, c.decay_rank, width_, none,
                     {.activation = ops::Act::kTanh, .weight = {.decay = false}, .up = small});
    const double ratio = block_ratio(a.layer, a.depth);
    const auto place = [last = std::max<Index>(1, width_ - 1)](Index i) {
      return static_cast<double>(i) / static_cast<double>(last);
    };
    base_ = a.scope.param("decay_bias", {width_}, by_place([=](Index i) {
                            return -6 + 5 * std::pow(place(i), 0.7 + 1.3 * ratio);
                          }),
                          {.decay = false});
    bonus_ =
        a.scope.param("bonus", {width_}, by_place([=](Index i) {
                        return ratio * (1 - place(i)) + 0.1 * static_cast<double>((i + 1) % 3 - 1);
                      }),
                      {.decay = false});
    const Scope norm = a.scope.child("out_norm");
    gain_ = norm.param("weight", {width_}, Init::constant(1), {.decay = false});
    shift_ = norm.param("bias", {width_}, none, {.decay = false});
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const Index b = seq.batch(), t = seq.tokens(), h = width_ / c_.head_dim;
    const ag::Var difference = seq.scan<ops::TokenShift>("shift", {.x = x}).y;
    const ag::Var inner = ag::call<ops::Activation>({.x = down_(first_(x, difference))},
                                                    {.activation = ops::Act::kTanh})
                              .y;
    const auto low = ag::split(inner, 2, std::vector<Index>(kTargets, c_.shift_rank));
    const auto mixed = [&](Target i) {
      return mixes_[i].with(x, difference, mixes_[i].up(low[i]));
    };
    const Shape heads = {b, t, h, c_.head_dim};
    const ag::Var g = decay_of(mixed(kDecay));
    const ag::Var o =
        seq.scan<ops::DecayedLinear>("scan", {.q = ag::reshape(r_(mixed(kRead)), heads),
                                              .k = ag::reshape(k_(mixed(kKey)), heads),
                                              .v = ag::reshape(v_(mixed(kValue)), heads),
                                              .gk = ag::reshape(g, heads),
                                              .u = ag::reshape(bonus_, {h, c_.head_dim})})
            .o;
    const ag::Var normed = ag::call<ops::GroupNorm>({.x = ag::reshape(o, x.shape()),
                                                     .weight = gain_,
                                                     .bias = shift_,
                                                     .z = z_(mixed(kGate))},
                                                    {.num_groups = h, .eps = kNormEps})
                               .y;
    return out_(normed);
  }

 private:
  enum Target : std::uint8_t { kDecay, kKey, kValue, kRead, kGate, kTargets };
  static constexpr double kNormEps = 64e-5;
  struct Mix {
    TokenMix with;
    Linear up;
  };

  void make_mixes(const MixerArgs& a, const Init& none, const Init& small) {
    const double falling = 1 - static_cast<double>(a.layer) / static_cast<double>(a.depth);
    const double ratio = block_ratio(a.layer, a.depth);
    const Scope scope = a.scope.child("mix");
    first_ = TokenMix(scope, "first", width_, falling);
    down_ = Linear(scope.child("down"), width_, kTargets * c_.shift_rank, none);
    const struct {
      const char* name;
      double power, less;
    } targets[] = {{"decay", falling, 0},
                   {"key", falling, 0},
                   {"value", falling, 0.3 * ratio},
                   {"read", falling / 2, 0},
                   {"gate", falling / 2, 0}};
    for (const auto& [name, power, less] : targets) {
      mixes_.push_back(
          {TokenMix(scope, name, width_, power, less),
           Linear(scope.child(std::string("up_") + name), c_.shift_rank, width_, small)});
    }
  }
  /// Log-decays of the acc type from the mix for them.
  ag::Var decay_of(const ag::Var& x) const {
    const ag::Var low = ag::cast(decay_(x), acc_dtype(x.dtype()));
    return ag::scale(
        ag::call<ops::BiasAct>({.x = low, .bias = base_}, {.activation = ops::Act::kExp}).y, -1);
  }

  Config c_;
  Index width_;
  TokenMix first_;
  std::vector<Mix> mixes_;
  Linear down_, r_, k_, v_, z_, out_;
  LowRank decay_;
  ag::Var base_, bonus_, gain_, shift_;
};
LS_REGISTER(
    TokenMixer, Rwkv6, "rwkv6",
    "RWKV-6 time mix: S = Diag(exp(g)) S + k v^T, read before the write with a bonus, mixes "
    "with the token before (Peng 2024); first values of BlinkDL/RWKV-LM");

}  // namespace
}  // namespace ls::layers
