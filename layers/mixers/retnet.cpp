#include <cmath>

#include "autograd/functional.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/rope/rope.h"
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
    ExpandedHeads heads{.heads = 8, .expand_v = 2};
    Index conv = 0;
    double rope_theta = 10000;
    template <class F>
    void fields(F& f) {
      heads.fields(f);
      conv_field(f, conv);
      f("rope_theta", rope_theta, {.help = "base of the rotary frequencies", .above = 0});
    }
  };
  RetNet(const Config& c, const MixerArgs& a)
      : theta_(c.rope_theta), shape_(c.heads.shape("retnet", a.width)) {
    LS_CHECK(shape_.key_dim % 2 == 0, kConfig,
             "retnet: rotary positions need an even key width per head, not {}", shape_.key_dim);
    in_ = HeadInput(a, shape_, {.conv = c.conv, .gate = true});
    out_ = HeadOutput(a, shape_.heads, shape_.value_dim);
    std::vector<double> g;
    for (Index i = 0; i < shape_.heads; ++i) {
      g.push_back(std::log1p(-std::exp2(-5.0 - static_cast<double>(i))));
    }
    decay_ = a.scope.constant(Tensor::from(g));
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const auto [q, k, v, gate] = in_(x, seq);
    const ag::Var positions(seq.positions());
    const auto rotated = [&](const ag::Var& z) {
      return ag::call<ops::Rope>({.x = z, .positions = positions}, {.theta = theta_}).y;
    };
    const ag::Var o =
        seq.scan<ops::DecayedLinear>("scan",
                                     {.q = rotated(q),
                                      .k = rotated(k),
                                      .v = v,
                                      .decay = ag::cast(decay_, acc_dtype(x.dtype()))},
                                     {.scale = inverse_root(shape_.key_dim)})
            .o;
    return out_(o, gate);
  }

 private:
  double theta_;
  HeadShape shape_;
  HeadInput in_;
  HeadOutput out_;
  ag::Var decay_;
};
LS_REGISTER(
    TokenMixer, RetNet, "retnet",
    "retention: S = gamma_h S + k v^T with a constant decay per head (Sun 2023); defaults of "
    "flash-linear-attention");

}  // namespace
}  // namespace ls::layers
