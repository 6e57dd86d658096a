#include "core/ops/activation/activation.h"
#include "core/ops/glu/glu.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

LS_GOLDEN(Activations, "activations") {
  const ops::Act act = parse_enum<ops::Act>(c.text("activation"));
  if (c.has("gate")) {
    c.out("y", ag::call<ops::Glu>({.gate = c.in("gate"), .up = c.in("up")}, {.activation = act}).y);
  } else {
    c.out("y", ag::call<ops::Activation>({.x = c.in("x")}, {.activation = act}).y);
  }
}

}  // namespace
}  // namespace ls::golden
