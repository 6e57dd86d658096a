#include "core/ops/embedding/embedding.h"

#include "experiments/golden/golden.h"

namespace ls::layers {
namespace {

LS_GOLDEN("embedding", [](GoldenCall& c) {
  const ops::Embedding::Attrs attrs = {.scale = c.number("scale", 1),
                                       .padding_idx = c.integer("padding_idx", -1)};
  c.out("y", ag::call<ops::Embedding>({.weight = c.in("weight"), .ids = c.in("ids")}, attrs).y);
});

}  // namespace
}  // namespace ls::layers
