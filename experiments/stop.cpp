#include "experiments/stop.h"

#include <pthread.h>

#include <atomic>
#include <csignal>
#include <thread>

namespace ls::experiments {
namespace {
std::atomic<bool> remembered{false};
std::atomic<int> arrived{0};
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

int stop_signal(Communicator& comm) {
  return comm.size() > 1 ? comm.reduce_value(arrived.load(), ReduceOp::kMax) : arrived.load();
}

}  // namespace ls::experiments
