#pragma once
// Verbs of the program: each registers itself from its own file in experiments/commands.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
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

/// A number from `least` to `most`; NaN is none.
inline CLI::Validator number_between(double least, double most) {
  return CLI::Validator(
      [=](std::string& text) {
        char* end = nullptr;
        const double x = std::strtod(text.c_str(), &end);
        const bool good = end != text.c_str() && *end == '\0' && x >= least && x <= most;
        return good
                   ? std::string()
                   : fmt::format("a number from {} to {} is expected, got '{}'", least, most, text);
      },
      "");
}

#define LS_COMMAND(ident, ...)                                 \
  [[maybe_unused]] static const bool ls_command_##ident = [] { \
    ::ls::experiments::commands().push_back(__VA_ARGS__);      \
    return true;                                               \
  }()

}  // namespace ls::experiments
