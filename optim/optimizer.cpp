#include "optim/optimizer.h"

namespace ls::optim {
Optimizer::Registry& Optimizer::registry() {
  static auto* const registry = new Registry("optimizer");
  return *registry;
}
}  // namespace ls::optim
