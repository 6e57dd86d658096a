#pragma once
// Verbs of the program: each registers itself from its own file in experiments/commands.
#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/mpi_env.h"

namespace ls::experiments {

/// What a verb does once the command line is understood; returns the exit status.
using Action = std::function<int(parallel::RankEnv&)>;

struct Command {
  std::string name, help;
  int order = 0;  ///< place in the help text
  /// Adds options to the sub-command and returns what to do with them.
  Action (*setup)(CLI::App& app);
};
std::vector<Command>& commands();

#define LS_COMMAND(ident, ...)                                 \
  [[maybe_unused]] static const bool ls_command_##ident = [] { \
    ::ls::experiments::commands().push_back(__VA_ARGS__);      \
    return true;                                               \
  }()

}  // namespace ls::experiments
