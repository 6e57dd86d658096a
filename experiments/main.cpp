#include <algorithm>
#include <cstdio>
#include <exception>

#include "core/backend/cpu/parallel_for.h"
#include "core/log.h"
#include "core/registry.h"
#include "experiments/commands/command.h"
#include "experiments/provenance.h"

namespace {

using namespace ls;

int run(int argc, char** argv) {
  for (const std::string& fault : duplicate_registrations()) {
    LS_FAIL(kInternal, "{}", fault);
  }
  CLI::App app(
      "Longscan: training and measuring sequence models whose memory is a recurrent state");
  app.set_version_flag("--version", experiments::version_line());
  app.require_subcommand(1);
  int threads = 0;
  app.add_option("--threads", threads, "compute threads; 0 follows the affinity mask")
      ->check(CLI::Range(0, 4096));
  app.fallthrough();

  auto& verbs = experiments::commands();
  std::sort(verbs.begin(), verbs.end(),
            [](const auto& a, const auto& b) { return a.order < b.order; });
  experiments::Action chosen;
  for (const experiments::Command& verb : verbs) {
    CLI::App* const sub = app.add_subcommand(verb.name, verb.help);
    const experiments::Action action = verb.setup(*sub);
    sub->callback([&chosen, action] { chosen = action; });
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e);
  }
  return parallel::run_with_ranks([&](parallel::RankEnv& env) {
    if (threads > 0) {
      set_num_threads(threads);
    }
    return chosen(env);
  });
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "longscan: error: %s\n", e.what());
    return 1;
  }
}
