#include "core/ops/mlstm/mlstm.h"

#include "autograd/functional.h"
#include "core/ops/activation/activation.h"
#include "core/ops/bias_act/bias_act.h"
#include "core/ops/glu/glu.h"
#include "core/ops/group_norm/group_norm.h"
#include "layers/mixers/projections.h"

namespace ls::layers {
namespace {
enum class InputGate : std::uint8_t { kExp, kSigmoid };
}  // namespace
}  // namespace ls::layers

template <>
struct ls::EnumNames<ls::layers::InputGate> {
  static constexpr std::string_view kKind = "input gate";
  static constexpr std::array<std::string_view, 2> kNames = {"exp", "sigmoid"};
};

namespace ls::layers {
namespace {

/// Matrix LSTM: C_t = f C_{t-1} + i k_t v_t^T, n_t = f n_{t-1} + i k_t, o_t = q_t C_t / max(|q_t
/// n_t|, 1) with q over sqrt(Dk); f = sigmoid(.), i = exp(.) or sigmoid(.) of W x + bias by head,
/// both first through cap tanh(. / cap); then a layer norm of each head, times sigmoid(W_o x), and
/// the output projection (Beck 2024, 2025). Wiring and sizes of the large xLSTM's layer; first
/// biases 0 of i and 3 to 6 over the heads of f, as in the small one.
class Mlstm final : public TokenMixer {
 public:
  struct Config {
    ExpandedHeads heads{.expand_k = 0.5};
    InputGate input_gate = InputGate::kExp;
    double cap = 15;
    double eps = 1e-6;
    template <class F>
    void fields(F& f) {
      heads.fields(f);
      f("input_gate", input_gate, {.help = "what the input gate is made by"});
      f("cap", cap, {.help = "bound of both gates before their functions", .above = 0});
      f("eps", eps, {.help = "added to what outputs are divided by", .min = 0});
    }
  };
  Mlstm(const Config& c, const MixerArgs& a)
      : cap_(c.cap),
        norm_eps_(a.norm_eps),
        exponential_(c.input_gate == InputGate::kExp),
        shape_(c.heads.shape("mlstm", a.width)) {
    const Index heads = shape_.heads;
    const Init init = Init::normal(a.init_std);
    in_ = HeadInput(a, shape_, {.gate = true});
    const Scope gates = a.scope.child("gate");
    gates_ = Linear(gates, a.width, 2 * heads, init, false, {.decay = false});
    bias_ = gates.param("bias", {2 * heads}, forget_biases(heads), {.decay = false});
    norm_ = a.scope.child("out_norm")
                .param("weight", {shape_.values()}, Init::constant(1), {.decay = false});
    out_ = Linear(a.scope.child("out"), shape_.values(), a.width, init);
    attrs_.scale = inverse_root(shape_.key_dim);
    attrs_.eps = c.eps;
    attrs_.stabilize = exponential_;
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const Index heads = shape_.heads;
    const auto [q, k, v, gate] = in_(x, seq);
    const auto gates = ag::split(capped(gates_(x)), 2, {heads, heads});
    const ag::Var o = seq.scan<ops::Mlstm>("scan",
                                           {.q = q,
                                            .k = k,
                                            .v = v,
                                            .i = exponential_ ? gates[0] : log_sigmoid(gates[0]),
                                            .f = log_sigmoid(gates[1])},
                                           attrs_)
                          .o;
    const ag::Var normed =
        ag::call<ops::GroupNorm>({.x = ag::reshape(o, gate.shape()), .weight = norm_},
                                 {.num_groups = heads, .eps = norm_eps_})
            .y;
    return out_(
        ag::call<ops::Glu>({.gate = gate, .up = normed}, {.activation = ops::Act::kSigmoid}).y);
  }

 private:
  /// Of input gates 0, of forget gates from 3 to 6.
  static Init forget_biases(Index heads) {
    return {[heads](Rng&, std::span<double> x) {
              const double last = static_cast<double>(std::max<Index>(1, heads - 1));
              for (Index h = 0; h < heads; ++h) {
                x[static_cast<std::size_t>(h)] = 0;
                x[static_cast<std::size_t>(heads + h)] = 3 + 3 * static_cast<double>(h) / last;
              }
            },
            true};
  }
  static ag::Var log_sigmoid(const ag::Var& x) {
    return ag::call<ops::Activation>({.x = x}, {.activation = ops::Act::kLogSigmoid}).y;
  }
  /// cap tanh((x + bias) / cap), in acc.
  ag::Var capped(const ag::Var& logits) const {
    const ag::Var x = ag::cast(logits, acc_dtype(logits.dtype()));
    const ag::Var z = ag::scale(
        ag::call<ops::BiasAct>({.x = x, .bias = bias_}, {.activation = ops::Act::kIdentity}).y,
        1 / cap_);
    return ag::scale(ag::call<ops::Activation>({.x = z}, {.activation = ops::Act::kTanh}).y, cap_);
  }

  double cap_, norm_eps_;
  bool exponential_;
  HeadShape shape_;
  HeadInput in_;
  Linear gates_, out_;
  ag::Var bias_, norm_;
  ops::Mlstm::Attrs attrs_;
};
LS_REGISTER(TokenMixer, Mlstm, "mlstm",
            "matrix LSTM: C = f C + i k v^T with a normaliser, i exponential or a sigmoid (Beck "
            "2024, 2025); sizes of the large xLSTM");

}  // namespace
}  // namespace ls::layers
