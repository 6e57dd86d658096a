#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>

#include "core/base/log.h"
#include "core/base/parallel_for.h"
#include "core/base/registry.h"
#include "core/io/files.h"
#include "experiments/commands/command.h"
#include "experiments/provenance.h"
#include "experiments/stop.h"

namespace {

using namespace ls;

/// What is wrong with a command line, with the nearest name where one is misspelt.
std::string usage_error(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  std::vector<std::string> names;
  if (chosen.empty()) {
    for (const experiments::Command& verb : experiments::commands()) {
      names.push_back(verb.name);
    }
  } else {
    for (const CLI::Option* option : chosen.front()->get_options()) {
      for (const std::string& name : option->get_lnames()) {
        names.push_back("--" + name);
      }
    }
  }
  std::string text = error.what();
  if (app.get_subcommands().empty() && app.remaining(true).empty()) {
    text = "a command is required";
  }
  for (const std::string& word : app.remaining(true)) {
    const bool option = word.starts_with('-');
    if (option == chosen.empty()) {
      continue;
    }
    const std::string near = nearest_name(word.substr(0, word.find('=')), names);
    text = fmt::format("unknown {} '{}'{}", option ? "option" : "command", word,
                       near.empty() ? "" : ", did you mean '" + near + "'?");
    break;
  }
  if (chosen.empty()) {
    text += "; commands:";
    for (const std::string& name : names) {
      text += " " + name;
    }
    return text;
  }
  return text + "; longscan " + chosen.front()->get_name() + " --help lists its options";
}

/// Of several ranks one speaks: all of them read the same command line.
int parse(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const auto launch = parallel::launched_by();
    if (e.get_exit_code() != 0) {
      const std::string text = usage_error(app, e);
      return launch ? parallel::fail_unconnected(*launch, text)
                    : (std::fprintf(stderr, "longscan: %s\n", text.c_str()), 2);
    }
    if (!launch || launch->rank == 0) {
      app.exit(e);
    }
    return 0;
  }
  return -1;
}

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
  if (const int status = parse(app, argc, argv); status >= 0) {
    return status;
  }
  return parallel::run_with_ranks([&](parallel::RankEnv& env) {
    if (env.world().rank() != 0) {
      set_log_level(LogLevel::kError);
    }
    if (threads > 0) {
      // Ranks of one machine share its cores; alone, a user may ask for more threads than cores.
      const bool shared = env.local_size() > 1 && threads > env.threads();
      if (shared) {
        log_warn("fewer threads than asked for: the ranks of this machine share its cores",
                 {{"threads", std::to_string(env.threads())}});
      }
      set_num_threads(shared ? env.threads() : threads);
    }
    const int status = chosen(env);
    errno = 0;
    LS_CHECK(std::fflush(stdout) == 0 && std::ferror(stdout) == 0, kIo,
             "standard output cannot be written: {}", write_failure(errno));
    return status;
  });
}

}  // namespace

int main(int argc, char** argv) {
  start_with_short_spins(argv);
  experiments::take_signals_aside();
  std::signal(SIGXFSZ, SIG_IGN);  // a file that grows too large is an error of its write
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "longscan: %s\n", e.what());
    return 1;
  }
}
