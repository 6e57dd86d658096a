#include "core/base/parallel_for.h"

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <exception>
#include <iterator>
#include <mutex>
#include <thread>

namespace ls {
namespace {

int affinity_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}
std::atomic<int>& limit() {
  static std::atomic<int> threads{affinity_threads()};
  return threads;
}

thread_local bool inside = false;

/// Waits until `value` is not `old` any more: more rounds than most waits between two loops take, and few
/// enough for another program to get the core soon.
void wait_while(const std::atomic<std::uint32_t>& value, std::uint32_t old, bool spin) {
  constexpr int kRounds = 2000;
  for (int i = 0; spin && i < kRounds; ++i) {
    if (value.load(std::memory_order_acquire) != old) {
      return;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  while (value.load(std::memory_order_acquire) == old) {
    value.wait(old, std::memory_order_acquire);
  }
}

/// One loop, on the stack of its caller.
struct Loop {
  void (*run)(void*, Index);
  void* context;
  bool spin;
  std::mutex mutex = {};
  std::exception_ptr error = {};

  void run_piece(Index i) {
    inside = true;
    try {
      run(context, i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) {
        error = std::current_exception();
      }
    }
    inside = false;
  }
};

/// The other threads of one calling thread.
class Pool {
 public:
  Pool() = default;
  ~Pool() {
    for (Worker& w : workers_) {
      w.give(nullptr);
    }
    for (Worker& w : workers_) {
      w.thread.join();
    }
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  void run(Index pieces, Loop& loop) {
    while (static_cast<Index>(workers_.size()) < pieces - 1) {
      Worker& w = workers_.emplace_back();
      const Index piece = std::ssize(workers_);
      w.thread = std::thread([this, &w, piece] { w.work(piece, unfinished_); });
    }
    unfinished_ = static_cast<std::uint32_t>(pieces - 1);
    for (Index i = 1; i < pieces; ++i) {
      workers_[static_cast<std::size_t>(i - 1)].give(&loop);
    }
    loop.run_piece(0);
    for (std::uint32_t left = unfinished_; left > 0; left = unfinished_) {
      wait_while(unfinished_, left, loop.spin);
    }
    if (loop.error) {
      std::rethrow_exception(loop.error);
    }
  }

 private:
  /// Sleeps, or spins, until it is given the next loop; given none, it ends.
  struct alignas(64) Worker {
    std::atomic<std::uint32_t> given{0};
    Loop* loop = nullptr;
    std::thread thread;

    void give(Loop* next) {
      loop = next;
      given.fetch_add(1, std::memory_order_release);
      given.notify_one();
    }
    void work(Index piece, std::atomic<std::uint32_t>& unfinished) {
      bool spin = true;
      for (std::uint32_t seen = 0;; ++seen) {
        wait_while(given, seen, spin);
        if (!loop) {
          return;
        }
        Loop& mine = *loop;
        spin = mine.spin;
        mine.run_piece(piece);
        // The caller may leave, and the loop with it, as soon as none is unfinished.
        if (unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1) {
          unfinished.notify_one();
        }
      }
    }
  };
  std::deque<Worker> workers_;
  std::atomic<std::uint32_t> unfinished_{0};
};

}  // namespace

int num_threads() {
  return limit().load(std::memory_order_relaxed);
}

void set_num_threads(int threads) {
  limit() = threads > 0 ? threads : affinity_threads();
}

bool detail::in_parallel_loop() {
  return inside;
}

void detail::run_pieces(Index pieces, void (*run)(void*, Index), void* context) {
  static const int cores = affinity_threads();
  thread_local Pool pool;
  Loop loop{.run = run, .context = context, .spin = pieces <= cores};
  pool.run(pieces, loop);
}

}  // namespace ls
