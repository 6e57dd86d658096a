// Additive memories with decays of all kinds; feature maps of their queries and keys.
#include "core/ops/decayed_linear/decayed_linear.h"
#include "autograd/functional.h"
#include "core/ops/activation/activation.h"
#include "core/ops/bias_act/bias_act.h"
#include "core/ops/glu/glu.h"
#include "core/ops/row_normalize/row_normalize.h"
#include "core/ops/scale_add/scale_add.h"
#include "core/ops/sigmoid_gate/sigmoid_gate.h"
#include "core/ops/softmax/softmax.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

enum FeatureMap { kIdentity, kElu1, kRelu, kSoftmax };

FeatureMap feature_map(GoldenCall& c, const char* attribute) {
  return FeatureMap(c.choice(attribute, {"identity", "elu1", "relu", "softmax"}));
}
ag::Var mapped(FeatureMap map, const ag::Var& x) {
  if (map == kIdentity) {
    return x;
  }
  if (map == kSoftmax) {
    return ag::call<ops::Softmax>({.x = x}).y;
  }
  const ops::Act act = map == kRelu ? ops::Act::kRelu : ops::Act::kEluPlusOne;
  return ag::call<ops::Activation>({.x = x}, {.activation = act}).y;
}

LS_GOLDEN(FeatureMap, "feature_map") {
  c.out("y", mapped(feature_map(c, "map"), c.in("x")));
}

ops::DecayedLinear::Attrs attrs(GoldenCall& c) {
  ops::DecayedLinear::Attrs a;
  a.scale = c.number("scale", 1);
  c.ignore({"final"});
  return a;
}

using In = ops::DecayedLinear::In<ag::Var>;

/// Gates per head [H], per token [B,T,H], or per key channel [B,T,H,Dk].
void gated(GoldenCall& c, const char* query = "q") {
  const int rank = c.values("g").rank();
  const char* const gate = rank == 1 ? "decay" : rank == 3 ? "g" : "gk";
  c.run_scan<ops::DecayedLinear>(c.inputs<ops::DecayedLinear>({{"q", query}, {gate, "g"}}),
                                 attrs(c));
}

LS_GOLDEN(SimpleGla, "simple_gla") {
  gated(c);
}
LS_GOLDEN(Gla, "gla") {
  gated(c);
}
LS_GOLDEN(Rwkv6, "rwkv6") {
  gated(c, "r");
}
LS_GOLDEN(Hgrn2, "hgrn2") {
  In in = c.inputs<ops::DecayedLinear>();
  const auto gate =
      ag::call<ops::SigmoidGate>({.x = c.in("f")}, {.lower_bound = c.number("lower_bound")});
  in.k = gate.k;
  in.gk = gate.g;
  c.run_scan<ops::DecayedLinear>(in, attrs(c));
}
LS_GOLDEN(Retnet, "retnet") {
  gated(c);
}
LS_GOLDEN(Lightning, "lightning") {
  c.ignore({"decay_schedule", "layer_idx", "num_layers"});  // how the g of the file was made
  gated(c);
}

ag::Var activated(const ag::Var& x, ops::Act activation, const ag::Var& bias = {}) {
  return ag::call<ops::BiasAct>({.x = x, .bias = bias}, {.activation = activation}).y;
}
/// x limited to [low, high], infinite ones excepted.
ag::Var clamped(const ag::Var& x, double low, double high) {
  const auto above = [&](double limit) {
    const Tensor bias =
        Tensor::full({x.size(-1)}, acc_dtype(x.dtype()), -limit, x.value().device());
    return activated(x, ops::Act::kRelu, ag::Var(bias));
  };
  ag::Var y =
      ag::add(ag::Var(Tensor::full(x.shape(), x.dtype(), low, x.value().device())), above(low));
  return high > 1e300 ? y : ag::add(y, ag::scale(above(high), -1));
}

/// Mamba-2's core: keys B and queries C of groups of heads, steps per head and token.
LS_GOLDEN(Ssd, "ssd") {
  c.ignore({"chunk_size"});
  const ag::Var x = c.in("x"), d = c.acc_or_none("D");
  const bool softplus = c.flag("dt_softplus");
  const ag::Var step =
      clamped(activated(c.acc("dt"), softplus ? ops::Act::kSoftplus : ops::Act::kIdentity,
                        c.acc_or_none("dt_bias")),
              c.number("dt_min"), c.number("dt_max"));
  const Shape flat = {x.size(0), x.size(1), x.size(2) * x.size(3)};
  const ag::Var rows = ag::reshape(x, flat);
  const auto written = ag::call<ops::ScaleAdd>({.x = rows, .factor = step}).y;
  const auto [o, state] =
      c.scan<ops::DecayedLinear>({.q = c.in("C"),
                                  .k = c.in("B"),
                                  .v = ag::reshape(written, x.shape()),
                                  .g = ag::call<ops::ScaleAdd>({.x = step, .gain = c.acc("A")}).y,
                                  .s0 = c.acc_or_none("initial_state"),
                                  .offsets = c.in_or_none("offsets")},
                                 {});
  ag::Var y = ag::reshape(o, flat);
  if (d.defined()) {
    const Index gains = d.value().numel();
    y = ag::call<ops::ScaleAdd>({.x = rows, .gain = ag::reshape(d, {gains}), .base = y}).y;
  }
  y = ag::reshape(y, x.shape());
  if (c.has("z")) {
    y = ag::call<ops::Glu>({.gate = c.in("z"), .up = y}).y;
  }
  c.out("y", y);
  c.out("final_state", state);
}

/// The normaliser z is the state of a value channel that is always 1.
LS_GOLDEN(LinearAttn, "linear_attn") {
  const FeatureMap map = feature_map(c, "feature_map");
  const bool normalize = c.flag("normalize");
  const double eps = c.number("eps");
  In in = c.inputs<ops::DecayedLinear>();
  in.q = mapped(map, in.q);
  in.k = mapped(map, in.k);
  const Index width = in.v.size(3);
  if (normalize) {
    Shape column = in.v.shape();
    column[3] = 1;
    in.v = ag::concat({in.v, ag::Var(Tensor::full(column, in.v.dtype(), 1, in.v.value().device()))},
                      3);
    if (in.s0.defined()) {
      const ag::Var z = c.acc("initial_z");
      in.s0 = ag::concat({in.s0, ag::reshape(z, {z.size(0), z.size(1), z.size(2), 1})}, 3);
    }
  }
  const auto [o, state] = c.scan<ops::DecayedLinear>(in, attrs(c));
  c.out("o", normalize ? ag::call<ops::RowNormalize>({.x = o}, {.eps = eps}).y : o);
  c.out("final_state", ag::slice(state, 3, 0, width));
  if (normalize) {
    const ag::Var z = ag::slice(state, 3, width, width + 1);
    c.out("final_z", ag::reshape(z, {z.size(0), z.size(1), z.size(2)}));
  }
}

}  // namespace
}  // namespace ls::golden
