// Additive memories with no, constant and scalar decay; feature maps of their queries and keys.
#include "core/ops/decayed_linear/decayed_linear.h"
#include "autograd/functional.h"
#include "core/ops/activation/activation.h"
#include "core/ops/row_normalize/row_normalize.h"
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

/// Gates per token in `g` [B,T,H], or per head [H].
void gated(GoldenCall& c) {
  ops::DecayedLinear::In<ag::Var> in = {.q = c.in("q"),
                                        .k = c.in("k"),
                                        .v = c.in("v"),
                                        .s0 = c.acc_or_none("initial_state"),
                                        .offsets = c.in_or_none("offsets")};
  const ag::Var g = c.acc("g");
  (g.rank() == 1 ? in.decay : in.g) = g;
  const auto [o, state] = c.scan<ops::DecayedLinear>(in, attrs(c));
  c.out("o", o);
  c.out("final_state", state);
}

LS_GOLDEN(SimpleGla, "simple_gla") {
  gated(c);
}
LS_GOLDEN(Retnet, "retnet") {
  gated(c);
}
LS_GOLDEN(Lightning, "lightning") {
  c.ignore({"decay_schedule", "layer_idx", "num_layers"});  // how the g of the file was made
  gated(c);
}

/// The normaliser z is the state of a value channel that is always 1.
LS_GOLDEN(LinearAttn, "linear_attn") {
  const FeatureMap map = feature_map(c, "feature_map");
  const bool normalize = c.flag("normalize");
  const double eps = c.number("eps");
  ops::DecayedLinear::In<ag::Var> in = {.q = mapped(map, c.in("q")),
                                        .k = mapped(map, c.in("k")),
                                        .v = c.in("v"),
                                        .s0 = c.acc_or_none("initial_state"),
                                        .offsets = c.in_or_none("offsets")};
  const Index width = in.v.size(3);
  if (normalize) {
    Shape column = in.v.shape();
    column[3] = 1;
    in.v = ag::concat({in.v, ag::Var(Tensor::full(column, in.v.dtype(), 1))}, 3);
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
