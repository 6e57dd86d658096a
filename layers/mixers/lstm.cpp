#include "core/ops/lstm/lstm.h"
#include "autograd/functional.h"
#include "layers/limits.h"
#include "layers/mixers/cell.h"

namespace ls::layers {
namespace {

/// LSTM: i, f, o = sigmoid(.), g = tanh(.) of x W + h R + b; c_t = f c_{t-1} + i g,
/// h_t = o tanh(c_t). R is dense with one head, block-diagonal over several. The output is h
/// itself, of the model's width (Hochreiter & Schmidhuber 1997; Gers 2000).
class Lstm final : public TokenMixer {
 public:
  struct Config {
    Index heads = 1;
    double forget_bias = 1;
    RecurrentInit recurrent_init = RecurrentInit::kUniform;
    template <class F>
    void fields(F& f) {
      f("heads", heads, {.help = "blocks of the recurrent matrix", .min = 1, .max = kMaxHeads});
      f("forget_bias", forget_bias, {.help = "first value of the forget gate's bias"});
      f("recurrent_init", recurrent_init,
        {.help = "first recurrent weights: uniform(+-1/sqrt(D)) or orthogonal blocks"});
    }
  };
  Lstm(const Config& c, const MixerArgs& a)
      : weights_("lstm", a, c.heads, 4, c.recurrent_init, kForgetGate, c.forget_bias) {}
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    return seq
        .scan<ops::Lstm>("cell",
                         {.gx = weights_.in(x), .r = weights_.recurrent, .bias = weights_.bias})
        .y;
  }

 private:
  static constexpr Index kForgetGate = 1;
  CellWeights weights_;
};
LS_REGISTER(
    TokenMixer, Lstm, "lstm",
    "long short-term memory: c = f c + i g, h = o tanh(c), gates of x and h (Hochreiter 1997, Gers "
    "2000); defaults of PyTorch (first weights U(+-1/sqrt(D))), with forget bias 1 (Jozefowicz "
    "2015)");

}  // namespace
}  // namespace ls::layers
