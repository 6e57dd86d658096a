#include <cmath>

#include "autograd/functional.h"
#include "core/ops/lstm/lstm.h"
#include "layers/limits.h"
#include "layers/mixers/mixer.h"

namespace ls::layers {
namespace {
enum class RecurrentInit : std::uint8_t { kUniform, kOrthogonal };
}  // namespace
}  // namespace ls::layers

template <>
struct ls::EnumNames<ls::layers::RecurrentInit> {
  static constexpr std::string_view kKind = "first recurrent weights";
  static constexpr std::array<std::string_view, 2> kNames = {"uniform", "orthogonal"};
};

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
  Lstm(const Config& c, const MixerArgs& a) {
    LS_CHECK(a.width % c.heads == 0, kConfig, "lstm: {} heads do not divide width {}", c.heads,
             a.width);
    const Index d = a.width / c.heads;
    const double bound = 1.0 / std::sqrt(static_cast<double>(a.width));
    in_ = Linear(a.scope.child("in"), a.width, 4 * a.width, Init::uniform(-bound, bound));
    const double forget = c.forget_bias;
    const Index width = a.width;
    bias_ = a.scope.child("in").param("bias", {4 * a.width},
                                      {[forget, width](Rng&, std::span<double> x) {
                                        for (std::size_t i = 0; i < x.size(); ++i) {
                                          x[i] = static_cast<Index>(i) / width == 1 ? forget : 0.0;
                                        }
                                      }},
                                      {.decay = false});
    recurrent_ =
        a.scope.child("recurrent")
            .param("weight", {c.heads, 4 * d, d},
                   c.recurrent_init == RecurrentInit::kOrthogonal ? Init::orthogonal(d)
                                                                  : Init::uniform(-bound, bound));
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    return seq.scan<ops::Lstm>("cell", {.gx = in_(x), .r = recurrent_, .bias = bias_}).y;
  }

 private:
  Linear in_;
  ag::Var bias_, recurrent_;
};
LS_REGISTER(
    TokenMixer, Lstm, "lstm",
    "long short-term memory: c = f c + i g, h = o tanh(c), gates of x and h (Hochreiter 1997, Gers "
    "2000); defaults of PyTorch (first weights U(+-1/sqrt(D))), with forget bias 1 (Jozefowicz "
    "2015)");

}  // namespace
}  // namespace ls::layers
