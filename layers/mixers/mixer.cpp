#include "layers/mixers/mixer.h"

namespace ls::layers {
TokenMixer::Registry& TokenMixer::registry() {
  static auto* const registry = new Registry("mixer");
  return *registry;
}
}  // namespace ls::layers
