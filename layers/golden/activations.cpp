#include "core/ops/glu/glu.h"
#include "layers/golden.h"

namespace ls::layers {
namespace {

LS_GOLDEN("activations", [](GoldenCall& c) {
  const Act act = parse_activation(c.text("activation"));
  if (c.has("gate")) {
    c.out("y", ag::call<Glu>({.gate = c.in("gate"), .up = c.in("up")}, {.activation = act}).y);
  } else {
    c.out("y", ag::call<Activation>({.x = c.in("x")}, {.activation = act}).y);
  }
});

}  // namespace
}  // namespace ls::layers
