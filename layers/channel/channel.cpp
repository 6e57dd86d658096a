#include "layers/channel/channel.h"

#include "autograd/call.h"
#include "autograd/functional.h"
#include "core/ops/bias_act/bias_act.h"
#include "core/ops/glu_linear/glu_linear.h"

namespace ls::layers {

ChannelMixer::Registry& ChannelMixer::registry() {
  static auto* const registry = new Registry("channel mixer");
  return *registry;
}

namespace {

using ops::Act;

class Swiglu final : public ChannelMixer {
 public:
  struct Config : HiddenWidth {
    Act activation = Act::kSilu;
    template <class F>
    void fields(F& f) {
      HiddenWidth::fields(f);
      f("activation", activation,
        {.help = "activation of the gate",
         .allowed = {Act::kSilu, Act::kGeluTanh, Act::kGeluErf, Act::kRelu, Act::kSigmoid}});
    }
  };
  Swiglu(const Config& c, const ChannelArgs& a) : activation_(c.activation) {
    const Index hidden = c.width(a.width);
    gate_up_ = Linear(a.scope.child("gate_up"), a.width, 2 * hidden, Init::normal(a.init_std));
    down_ = Linear(a.scope.child("down"), hidden, a.width, Init::normal(a.init_std));
  }
  ag::Var forward(const ag::Var& x, SeqContext&) override {
    const ag::Var gate_up = gate_up_(x);
    return ag::call<ops::GluLinear>(
               {.x = gate_up, .weight = ag::cast(down_.weight(), gate_up.dtype())},
               {.activation = activation_})
        .y;
  }

 private:
  Act activation_;
  Linear gate_up_, down_;
};
LS_REGISTER(ChannelMixer, Swiglu, "swiglu",
            "gated linear unit: W_down (act(W_gate x) * W_up x); Shazeer 2020");

class Mlp final : public ChannelMixer {
 public:
  struct Config : HiddenWidth {
    Act activation = Act::kGeluTanh;
    bool bias = true;
    template <class F>
    void fields(F& f) {
      HiddenWidth::fields(f);
      f("activation", activation,
        {.help = "activation between the two products",
         .allowed = {Act::kGeluTanh, Act::kGeluErf, Act::kRelu, Act::kRelu2, Act::kSilu,
                     Act::kTanh}});
      f("bias", bias, {.help = "add a bias to both products"});
    }
  };
  Mlp(const Config& c, const ChannelArgs& a) : activation_(c.activation) {
    const Index hidden = c.width(a.width);
    up_ = Linear(a.scope.child("up"), a.width, hidden, Init::normal(a.init_std));
    if (c.bias) {
      bias_ = a.scope.child("up").param("bias", {hidden}, Init::constant(0), {.decay = false});
    }
    down_ = Linear(a.scope.child("down"), hidden, a.width, Init::normal(a.init_std), c.bias);
  }
  ag::Var forward(const ag::Var& x, SeqContext&) override {
    return down_(
        ag::call<ops::BiasAct>({.x = up_(x), .bias = bias_}, {.activation = activation_}).y);
  }

 private:
  Act activation_;
  Linear up_, down_;
  ag::Var bias_;
};
LS_REGISTER(ChannelMixer, Mlp, "gelu",
            "two products with an activation between: W_down act(W_up x + b) + c");

class NoChannel final : public ChannelMixer {
 public:
  using Config = NoConfig;
  NoChannel(const Config&, const ChannelArgs&) {}
  ag::Var forward(const ag::Var& x, SeqContext&) override { return x; }
  bool present() const override { return false; }
};
LS_REGISTER(ChannelMixer, NoChannel, "none",
            "no channel mixer: the block is the token mixer alone");

}  // namespace
}  // namespace ls::layers
