#include "core/base/parallel_for.h"

#include <sched.h>

#include <atomic>
#include <chrono>
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

/// Waits until `value` is not `old` any more: more rounds than most waits between two loops take,
/// and few enough for another program to get the core soon.
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
    const auto begin = Clock::now();
    bool late = false;
    if (alone_ > 0) {
      --alone_;
      for (Index i = 0; i < pieces; ++i) {
        loop.run_piece(i);
      }
    } else {
      late = run_shared(pieces, loop);
    }
    if (Clock::now() - begin >= pieces * kShort) {  // worth waiting for a thread
      misses_ = backoff_ = alone_ = 0;
    } else if (late &&
               ++misses_ >= kPatience) {  // woken by the first one, it would have come to the next
      misses_ = 0;
      alone_ = backoff_ = std::min(kMostAlone, 2 * backoff_ + 1);
    }
    if (loop.error) {
      std::rethrow_exception(loop.error);
    }
  }

 private:
  /// Sleeps, or spins, until there is a loop for it that nobody has taken; given none, it ends.
  struct alignas(64) Worker {
    std::atomic<std::uint32_t> turn{1};  // even: a piece waits; odd: it was taken
    Loop* loop = nullptr;                // read by whoever took the piece
    std::thread thread;

    void give(Loop* next) {
      loop = next;
      turn.store((turn.load(std::memory_order_relaxed) | 1) + 1, std::memory_order_release);
      turn.notify_one();
    }
    bool take(std::uint32_t seen) {
      return seen % 2 == 0 &&
             turn.compare_exchange_strong(seen, seen + 1, std::memory_order_acq_rel);
    }
    void work(Index piece, std::atomic<std::uint32_t>& unfinished) {
      bool spin = true;
      for (;;) {
        const std::uint32_t seen = turn.load(std::memory_order_acquire);
        if (!take(seen)) {
          wait_while(turn, seen | 1, spin);
          continue;
        }
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

  /// Pieces that nobody began while the caller did its own are the caller's too: on a busy core a
  /// thread may come too late for a short loop. True where one did.
  bool run_shared(Index pieces, Loop& loop) {
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
    bool late = false;
    for (Index i = 1; i < pieces; ++i) {
      Worker& w = workers_[static_cast<std::size_t>(i - 1)];
      if (w.take(w.turn.load(std::memory_order_relaxed))) {
        late = true;
        loop.run_piece(i);
        --unfinished_;
      }
    }
    for (std::uint32_t left = unfinished_; left > 0; left = unfinished_) {
      wait_while(unfinished_, left, loop.spin);
    }
    if (!late) {
      misses_ = backoff_ = 0;
    }
    return late;
  }

  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::microseconds kShort{100};  // of a piece
  static constexpr int kPatience = 3, kMostAlone = 64;
  std::deque<Worker> workers_;
  std::atomic<std::uint32_t> unfinished_{0};
  int misses_ = 0;               // short loops in a row that a thread came too late for
  int backoff_ = 0, alone_ = 0;  // loops that the caller runs without the others
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
