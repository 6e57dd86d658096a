#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>

#include "core/base/log.h"
#include "core/base/parallel_for.h"
#include "core/base/registration.h"
#include "core/io/files.h"
#include "experiments/commands/command.h"
#include "experiments/stop.h"

namespace {

using namespace ls;

int run(int argc, char** argv) {
  check_registrations();
  const experiments::CommandLine line = experiments::parse_command_line(argc, argv);
  if (!line.command) {
    return line.status;
  }
  const auto threads = static_cast<int>(line.threads);
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
    const int status = line.command->run(env);
    errno = 0;
    LS_CHECK(std::fflush(stdout) == 0 && std::ferror(stdout) == 0, kIo,
             "standard output cannot be written: {}", write_failure(errno));
    return status;
  });
}

}  // namespace

int main(int argc, char** argv) {
  experiments::take_signals_aside();
  std::signal(SIGXFSZ, SIG_IGN);  // a file that grows too large is an error of its write
  try {
    return run(argc, argv);
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "longscan: out of memory; use smaller sizes\n");
    return 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "longscan: %s\n", e.what());
    return 1;
  }
}
