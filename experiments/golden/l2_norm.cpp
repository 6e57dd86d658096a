#include "core/ops/l2_norm/l2_norm.h"

#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

LS_GOLDEN(L2Norm, "l2_norm") {
  c.out("y", ag::call<ops::L2Norm>(
                 {.x = c.in("x")},
                 {.eps = c.number("eps"),
                  .mode = ops::L2Norm::Eps(c.choice("eps_mode", {"inside", "max", "outside"}))})
                 .y);
}

}  // namespace
}  // namespace ls::golden
