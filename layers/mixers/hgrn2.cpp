#include "autograd/functional.h"
#include "core/ops/activation/activation.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/sigmoid_gate/sigmoid_gate.h"
#include "layers/limits.h"
#include "layers/mixers/mixer.h"

namespace ls::layers {
namespace {

/// HGRN2: S_t = Diag(f_t) S_{t-1} + (1 - f_t) i_t^T, o_t = q_t S_t, a forget gate for each key
/// channel, f = low + (1 - low) sigmoid(W_f x), q = sigmoid(W_q x), i = silu(W_i x); o goes through
/// a layer norm of all channels (Qin 2404.07904). Rows of S are averages of past i. Wiring of the
/// authors' layer (Doraemonzzz/hgru2-pytorch) without its biases; `head_dim` is their expand ratio.
/// Their models raise the bound from block to block: give each its own `lower_bound`.
class Hgrn2 final : public TokenMixer {
 public:
  struct Config {
    Index head_dim = 128;
    double lower_bound = 0;
    template <class F>
    void fields(F& f) {
      f("head_dim", head_dim,
        {.help = "key and value channels of a head", .min = 1, .max = kMaxHeadDim});
      f("lower_bound", lower_bound, {.help = "the least that a forget gate keeps", .min = 0});
      f.check(lower_bound < 1, "lower_bound", "must be below 1, or nothing is ever written");
    }
  };
  Hgrn2(const Config& c, const MixerArgs& a)
      : c_(c),
        width_(a.width),
        norm_(a.scope.child("out_norm"), NormKind::kLayer, a.width, a.norm_eps) {
    LS_CHECK(width_ % c.head_dim == 0, kConfig,
             "hgrn2: head_dim {} does not divide width {}; change head_dim", c.head_dim, width_);
    const Init init = Init::normal(a.init_std);
    in_ = Linear(a.scope.child("in"), width_, 3 * width_, init);
    out_ = Linear(a.scope.child("out"), width_, width_, init);
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const Shape heads = {seq.batch(), seq.tokens(), width_ / c_.head_dim, c_.head_dim};
    const auto parts = ag::split(in_(x), 2, {width_, width_, width_});
    const auto gate = ag::call<ops::SigmoidGate>({.x = parts[1]}, {.lower_bound = c_.lower_bound});
    const ag::Var o =
        seq.scan<ops::DecayedLinear>("scan", {.q = activated(parts[0], ops::Act::kSigmoid, heads),
                                              .k = ag::reshape(gate.k, heads),
                                              .v = activated(parts[2], ops::Act::kSilu, heads),
                                              .gk = ag::reshape(gate.g, heads)})
            .o;
    return out_(norm_(ag::reshape(o, x.shape())));
  }

 private:
  static ag::Var activated(const ag::Var& x, ops::Act activation, const Shape& shape) {
    return ag::reshape(ag::call<ops::Activation>({.x = x}, {.activation = activation}).y, shape);
  }
  Config c_;
  Index width_;
  Linear in_, out_;
  Norm norm_;
};
LS_REGISTER(
    TokenMixer, Hgrn2, "hgrn2",
    "S = Diag(f) S + (1 - f) i^T, a bounded forget gate by key channel (Qin 2024); wiring of "
    "the authors' layer");

}  // namespace
}  // namespace ls::layers
