#include "core/ops/gru/gru.h"
#include "autograd/functional.h"
#include "layers/limits.h"
#include "layers/mixers/cell.h"

namespace ls::layers {
namespace {

/// GRU: r, z = sigmoid(x W + h R + b), h_t = z h_{t-1} + (1 - z) n; n = tanh(x W + b + r (h R +
/// b_n)), or with the reset gate before the product tanh(x W + b + (r h) R). R is dense with one
/// head, block-diagonal over several. The output is h itself, of the model's width (Cho 2014).
class Gru final : public TokenMixer {
 public:
  struct Config {
    Index heads = 1;
    double keep_bias = 1;
    RecurrentInit recurrent_init = RecurrentInit::kUniform;
    ops::Reset reset = ops::Reset::kAfter;
    template <class F>
    void fields(F& f) {
      f("heads", heads, {.help = "blocks of the recurrent matrix", .min = 1, .max = kMaxHeads});
      f("keep_bias", keep_bias, {.help = "first value of the bias of z, which keeps"});
      f("recurrent_init", recurrent_init,
        {.help = "first recurrent weights: uniform(+-1/sqrt(D)) or orthogonal blocks"});
      f("reset", reset, {.help = "the reset gate comes after the recurrent product or before"});
    }
  };
  Gru(const Config& c, const MixerArgs& a)
      : weights_("gru", a, c.heads, 3, c.recurrent_init, kKeepGate, c.keep_bias) {
    attrs_.reset = c.reset;
    if (c.reset == ops::Reset::kAfter) {
      bias_n_ =
          a.scope.child("recurrent").param("bias", {a.width}, Init::constant(0), {.decay = false});
    }
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    return seq
        .scan<ops::Gru>("cell",
                        {.gx = weights_.in(x),
                         .r = weights_.recurrent,
                         .bias = weights_.bias,
                         .bias_n = bias_n_},
                        attrs_)
        .y;
  }

 private:
  static constexpr Index kKeepGate = 1;
  CellWeights weights_;
  ag::Var bias_n_;
  ops::Gru::Attrs attrs_;
};
LS_REGISTER(
    TokenMixer, Gru, "gru",
    "gated recurrent unit: h = z h + (1 - z) n, gates of x and h (Cho 2014); defaults of PyTorch "
    "(reset after the product, first weights U(+-1/sqrt(D))), with bias 1 in z as lstm's forget "
    "gate");

}  // namespace
}  // namespace ls::layers
