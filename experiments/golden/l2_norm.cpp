#include "core/ops/l2_norm/l2_norm.h"

#include "experiments/golden/golden.h"

namespace ls::layers {
namespace {

ops::L2Norm::Eps mode(const std::string& name) {
  if (name == "inside") {
    return ops::L2Norm::Eps::kInside;
  }
  if (name == "max") {
    return ops::L2Norm::Eps::kMax;
  }
  LS_CHECK(name == "outside", kUnsupported, "eps_mode '{}' is not one of inside, max, outside",
           name);
  return ops::L2Norm::Eps::kOutside;
}

LS_GOLDEN("l2_norm", [](GoldenCall& c) {
  c.out("y", ag::call<ops::L2Norm>({.x = c.in("x")}, {.eps = c.number("eps"),
                                                      .mode = mode(c.text("eps_mode", "inside"))})
                 .y);
});

}  // namespace
}  // namespace ls::layers
