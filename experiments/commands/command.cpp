#include "experiments/commands/command.h"

namespace ls::experiments {
std::vector<Command>& commands() {
  static std::vector<Command> list;
  return list;
}
}  // namespace ls::experiments
