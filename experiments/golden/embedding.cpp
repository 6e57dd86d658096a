#include "core/ops/embedding/embedding.h"

#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

LS_GOLDEN(Embedding, "embedding") {
  const ops::Embedding::Attrs attrs = {.scale = c.number("scale", 1),
                                       .padding_idx = c.integer("padding_idx", -1)};
  c.out("y", ag::call<ops::Embedding>({.weight = c.in("weight"), .ids = c.in("ids")}, attrs).y);
}

}  // namespace
}  // namespace ls::golden
