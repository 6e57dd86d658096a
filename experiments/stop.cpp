#include "experiments/stop.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>
#include <utility>

#include "core/base/error.h"

namespace ls::experiments {
namespace {
std::atomic<bool> remembered{false};
std::atomic<int> arrived{0};
std::atomic<std::chrono::system_clock::time_point> leaves{
    std::chrono::system_clock::time_point::max()};
constexpr int kTryAgain = 75;
}  // namespace

void take_signals_aside() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGUSR2}) {
    std::signal(signal, SIG_DFL);
    sigaddset(&signals, signal);
  }
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals] {
    for (;;) {
      int signal = 0;
      if (sigwait(&signals, &signal) != 0) {
        continue;
      }
      if (!remembered || arrived.exchange(signal) != 0) {
        pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
        std::raise(signal);
      }
    }
  }).detach();
}

void install_stop_signals() {
  remembered = true;
}

void leave_at(std::chrono::system_clock::time_point when) {
  leaves = when;
}

int stop_signal(Communicator& comm) {
  int here = arrived.load();
  if (here == 0 && std::chrono::system_clock::now() >= leaves.load()) {
    here = kTimeIsUp;
  }
  return comm.size() > 1 ? comm.reduce_value(here, ReduceOp::kMax) : here;
}

int stop_status(int signal) {
  return signal == kTimeIsUp ? kTryAgain : 128 + signal;
}

std::chrono::duration<double> parse_duration(const std::string& text) {
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  const std::string_view unit(rest, static_cast<std::size_t>(end - rest));
  constexpr std::pair<std::string_view, double> kUnits[] = {
      {"", 1}, {"s", 1}, {"min", 60}, {"h", 3600}};
  const auto* const known = std::ranges::find(kUnits, unit, [](const auto& u) { return u.first; });
  LS_CHECK(error == std::errc() && known != std::end(kUnits) && value >= 0 && value < 1e9, kConfig,
           "'{}' is no duration; write 90s, 5min or 1.5h", text);
  return std::chrono::duration<double>(value * known->second);
}

std::chrono::system_clock::time_point job_end() {
  for (const char* const name : {"SLURM_JOB_END_TIME", "LONGSCAN_JOB_END"}) {
    const char* const text = std::getenv(name);
    if (!text) {
      continue;
    }
    std::int64_t seconds = 0;
    const char* const end = text + std::strlen(text);
    const auto [rest, error] = std::from_chars(text, end, seconds);
    LS_CHECK(
        error == std::errc() && rest == end && seconds > 0 && seconds < (std::int64_t{1} << 33),
        kConfig, "{} is '{}', seconds since 1970 are expected", name, text);
    return std::chrono::system_clock::time_point(std::chrono::seconds(seconds));
  }
  LS_FAIL(kConfig,
          "when this job ends is not known: Slurm has not set SLURM_JOB_END_TIME; set "
          "LONGSCAN_JOB_END to seconds since 1970, as in LONGSCAN_JOB_END=$(($(date +%s) + 3600))");
}

}  // namespace ls::experiments
