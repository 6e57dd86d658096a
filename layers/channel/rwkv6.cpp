#include "autograd/functional.h"
#include "core/ops/activation/activation.h"
#include "core/ops/glu/glu.h"
#include "core/ops/token_shift/token_shift.h"
#include "layers/channel/channel.h"
#include "layers/mixers/rwkv.h"

namespace ls::layers {
namespace {

/// RWKV-6 channel mix: sigmoid(W_r x_r) * W_v relu(W_k x_k)^2, x_r and x_k mixes with the token
/// before (Peng 2404.05892). Wiring, width and first shares of BlinkDL/RWKV-LM (x060).
class Rwkv6Channel final : public ChannelMixer {
 public:
  struct Config : HiddenWidth {
    Config() : HiddenWidth{.expand = 3.5, .multiple = 32} {}
  };
  Rwkv6Channel(const Config& c, const ChannelArgs& a) {
    const double falling = 1 - static_cast<double>(a.layer) / static_cast<double>(a.depth);
    const Index hidden = c.width(a.width);
    const Init init = Init::normal(a.init_std);
    const Scope mix = a.scope.child("mix");
    key_mix_ = TokenMix(mix, "key", a.width, falling);
    gate_mix_ = TokenMix(mix, "gate", a.width, falling);
    key_ = Linear(a.scope.child("key"), a.width, hidden, init);
    value_ = Linear(a.scope.child("value"), hidden, a.width, init);
    gate_ = Linear(a.scope.child("gate_map"), a.width, a.width, init);
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const ag::Var difference = seq.scan<ops::TokenShift>("shift", {.x = x}).y;
    const ag::Var hidden = ag::call<ops::Activation>({.x = key_(key_mix_(x, difference))},
                                                     {.activation = ops::Act::kRelu2})
                               .y;
    return ag::call<ops::Glu>({.gate = gate_(gate_mix_(x, difference)), .up = value_(hidden)},
                              {.activation = ops::Act::kSigmoid})
        .y;
  }

 private:
  TokenMix key_mix_, gate_mix_;
  Linear key_, value_, gate_;
};
LS_REGISTER(
    ChannelMixer, Rwkv6Channel, "rwkv6",
    "RWKV-6 channel mix: sigmoid(W_r x_r) W_v relu(W_k x_k)^2 on mixes with the token before; "
    "Peng 2024");

}  // namespace
}  // namespace ls::layers
