#include "experiments/golden/feature_map.h"

#include "core/ops/activation/activation.h"
#include "core/ops/softmax/softmax.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

LS_GOLDEN(FeatureMap, "feature_map") {
  c.out("y", feature_map(c.text("map"), c.in("x")));
}

}  // namespace

ag::Var feature_map(const std::string& name, const ag::Var& x) {
  if (name == "identity") {
    return x;
  }
  if (name == "softmax") {
    return ag::call<ops::Softmax>({.x = x}).y;
  }
  LS_CHECK(name == "elu1" || name == "relu", kUnsupported,
           "feature map '{}' is not one of identity, elu1, relu, softmax", name);
  return ag::call<ops::Activation>(
             {.x = x}, {.activation = name == "relu" ? ops::Act::kRelu : ops::Act::kEluPlusOne})
      .y;
}

}  // namespace ls::golden
