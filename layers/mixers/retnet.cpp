#include <cmath>

#include "autograd/functional.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/rope/rope.h"
#include "layers/limits.h"
#include "layers/mixers/projections.h"

namespace ls::layers {
namespace {

/// RetNet retention: S_t = gamma_h S_{t-1} + k_t v_t^T, o_t = q_t S_t / sqrt(Dk), with
/// gamma_h = 1 - 2^(-5-h) and rotary positions on q and k; o goes through an RMS norm of each head,
/// times silu(W_g x). Wiring and defaults of flash-linear-attention's multiscale retention layer:
/// unlike the paper (Sun et al. 2023) it rotates as rope does, and does not rescale retention,
/// which the norm undoes but for its eps.
class RetNet final : public TokenMixer {
 public:
  struct Config {
    Index heads = 8;
    double expand_k = 1, expand_v = 2;
    Index conv = 0;
    double rope_theta = 10000;
    template <class F>
    void fields(F& f) {
      f("heads", heads, {.help = "number of heads", .min = 1, .max = kMaxHeads});
      f("expand_k", expand_k,
        {.help = "query and key width over model width", .max = kMaxExpand, .above = 0});
      f("expand_v", expand_v,
        {.help = "value width over model width", .max = kMaxExpand, .above = 0});
      f("conv", conv,
        {.help = "taps of a short convolution on q, k, v; 0 for none", .min = 0, .max = kMaxTaps});
      f("rope_theta", rope_theta, {.help = "base of the rotary frequencies", .above = 0});
    }
  };
  RetNet(const Config& c, const MixerArgs& a)
      : c_(c), shape_(expanded_heads("retnet", a.width, c.heads, c.expand_k, c.expand_v)) {
    const auto [h, dk, dv] = shape_;
    LS_CHECK(dk % 2 == 0, kConfig,
             "retnet: rotary positions need an even key width per head, not {}", dk);
    in_ = Linear(a.scope.child("in"), a.width, h * (2 * dk + 2 * dv), Init::normal(a.init_std));
    conv_ = ShortConvLayer(a, h * (2 * dk + dv), c.conv);
    out_ = HeadOutput(a, h, dv);
    std::vector<double> g;
    for (Index i = 0; i < h; ++i) {
      g.push_back(std::log1p(-std::exp2(-5.0 - static_cast<double>(i))));
    }
    decay_ = a.scope.constant(Tensor::from(g));
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const auto [h, dk, dv] = shape_;
    const Index b = seq.batch(), t = seq.tokens();
    const auto halves = ag::split(in_(x), 2, {h * (2 * dk + dv), h * dv});
    const auto parts = ag::split(conv_(halves[0], seq, "conv"), 2, {h * dk, h * dk, h * dv});
    const ops::Rope::Attrs rope{.theta = c_.rope_theta};
    const ag::Var positions(seq.positions());
    const ag::Var q = ag::call<ops::Rope>(
                          {.x = ag::reshape(parts[0], {b, t, h, dk}), .positions = positions}, rope)
                          .y;
    const ag::Var k = ag::call<ops::Rope>(
                          {.x = ag::reshape(parts[1], {b, t, h, dk}), .positions = positions}, rope)
                          .y;
    const ag::Var v = ag::reshape(parts[2], {b, t, h, dv});
    const ag::Var decay = ag::cast(decay_, acc_dtype(x.dtype()));
    return out_(seq.scan<ops::DecayedLinear>("scan", {.q = q, .k = k, .v = v, .decay = decay},
                                             {.scale = inverse_root(dk)})
                    .o,
                halves[1]);
  }

 private:
  Config c_;
  HeadShape shape_;
  Linear in_;
  ShortConvLayer conv_;
  HeadOutput out_;
  ag::Var decay_;
};
LS_REGISTER(
    TokenMixer, RetNet, "retnet",
    "retention: S = gamma_h S + k v^T with a constant decay per head (Sun 2023); defaults of "
    "flash-linear-attention");

}  // namespace
}  // namespace ls::layers
