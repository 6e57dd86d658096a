#include "core/ops/softmax/softmax.h"

#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

LS_GOLDEN(Softmax, "softmax") {
  const auto [y, lse] = ag::call<ops::Softmax>(
      {.x = c.in("x")}, {.scale = c.number("scale", 1), .log = c.flag("log")});
  c.out("y", y);
  c.out("lse", lse);
}

}  // namespace
}  // namespace ls::golden
