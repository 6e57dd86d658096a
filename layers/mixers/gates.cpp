#include "layers/mixers/gates.h"

#include <algorithm>
#include <cmath>

#include "autograd/functional.h"
#include "core/ops/activation/activation.h"
#include "core/ops/bias_act/bias_act.h"
#include "core/ops/mamba_gate/mamba_gate.h"
#include "core/ops/scale_add/scale_add.h"

namespace ls::layers {

namespace {
constexpr double kLeast = 1e-4;  // of a rate or step: its log is finite
}  // namespace

Init log_rates(double low, double high) {
  return {[low, high](Rng& rng, std::span<double> x) {
    for (double& v : x) {
      v = std::log(std::max(low + (high - low) * rng.uniform(), kLeast));
    }
  }};
}

Init softplus_steps(double low, double high) {
  return {[low, high](Rng& rng, std::span<double> x) {
    for (double& v : x) {
      const double step = std::max(
          std::exp(rng.uniform() * (std::log(high) - std::log(low)) + std::log(low)), kLeast);
      v = step + std::log(-std::expm1(-step));
    }
  }};
}

MambaDecay::MambaDecay(const Scope& scope, Index heads, double low, double high, Index channels)
    : a_log_(scope.param("a_log", {heads}, log_rates(low, high), {.decay = false})),
      dt_bias_(scope.param("dt_bias", {heads * channels}, softplus_steps(), {.decay = false})) {}

MambaDecay MambaDecay::bounded(const Scope& scope, Index heads, double lower_bound,
                               Index channels) {
  MambaDecay out(scope, heads, 1, 1, channels);
  out.lower_bound_ = lower_bound;
  return out;
}

void MambaDecay::limit_steps(double low, double high) {
  low_ = low;
  high_ = high;
}

ag::Var MambaDecay::operator()(const ag::Var& logits) const {
  if (low_ > 0 || high_ > 0) {
    const ag::Var rates =
        ag::call<ops::Activation>({.x = a_log_}, {.activation = ops::Act::kExp}).y;
    return ag::call<ops::ScaleAdd>({.x = step(logits), .gain = ag::scale(rates, -1)}).y;
  }
  return ag::call<ops::MambaGate>({.x = logits, .a_log = a_log_, .dt_bias = dt_bias_},
                                  {.lower_bound = lower_bound_})
      .g;
}

ag::Var MambaDecay::step(const ag::Var& logits) const {
  const ag::Var x = ag::cast(logits, acc_dtype(logits.dtype()));
  const auto shifted = [](const ag::Var& s, const ag::Var& by, ops::Act activation) {
    return ag::call<ops::BiasAct>({.x = s, .bias = by}, {.activation = activation}).y;
  };
  const auto all = [&](double value) {
    return ag::Var(Tensor::full({x.size(-1)}, x.dtype(), value, x.value().device()));
  };
  ag::Var s = shifted(x, dt_bias_, ops::Act::kSoftplus);
  if (low_ > 0) {  // low + relu(s - low)
    s = shifted(shifted(s, all(-low_), ops::Act::kRelu), all(low_), ops::Act::kIdentity);
  }
  if (high_ > 0) {  // high - relu(high - s)
    const ag::Var room = shifted(ag::scale(s, -1), all(high_), ops::Act::kRelu);
    s = shifted(ag::scale(room, -1), all(high_), ops::Act::kIdentity);
  }
  return s;
}

ag::Var log_sigmoid_decay(const ag::Var& logits, double normalizer) {
  const ag::Var x = ag::cast(logits, acc_dtype(logits.dtype()));
  return ag::scale(ag::call<ops::Activation>({.x = x}, {.activation = ops::Act::kLogSigmoid}).y,
                   1.0 / normalizer);
}

// relu(x) + sigmoid(min(x, 0))
ag::Var positive_candidate(const ag::Var& x) {
  const ag::Var above = ag::call<ops::Activation>({.x = x}, {.activation = ops::Act::kRelu}).y;
  const ag::Var below = ag::add(x, ag::scale(above, -1));
  return ag::add(above,
                 ag::call<ops::Activation>({.x = below}, {.activation = ops::Act::kSigmoid}).y);
}

LowRank::LowRank(const Scope& scope, Index in, Index rank, Index out, const Init& init,
                 const Options& options)
    : down_(scope.child("down"), in, rank, init, false, options.weight),
      up_(scope.child("up"), rank, out, options.up.value_or(init), options.bias, options.weight),
      activation_(options.activation) {}

ag::Var LowRank::operator()(const ag::Var& x) const {
  ag::Var inner = down_(x);
  if (activation_ != ops::Act::kIdentity) {
    inner = ag::call<ops::Activation>({.x = inner}, {.activation = activation_}).y;
  }
  return up_(inner);
}

}  // namespace ls::layers
