#pragma once
// Batches made ahead of the trainer by threads of their own.
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "data/batcher.h"

namespace ls::data {

struct PrefetchOptions {
  Index first_step = 0;
  Index end_step = -1;  ///< first step not to make; -1: no end
  int depth = 4;        ///< most batches that wait ready or are being made
  int workers = 1;      ///< 0: batches are made when asked for, on the caller's thread
};

/// Hands out batches first_step, first_step + 1, ... in order, whatever the number of workers.
class Prefetcher {
 public:
  using Make = std::function<Batch(Index step)>;
  /// `make` is called from several threads at once when there are several workers.
  Prefetcher(Make make, const PrefetchOptions& options);
  /// Waits for batches that are being made, drops those that wait.
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// The next batch. An exception from making it is thrown here, unchanged, at the step that it
  /// belongs to, and again at every later call. @throws Error(Internal) past end_step
  Batch next();
  /// Share of the time since the last call of this function (or the first `next`) that the caller
  /// has spent waiting inside `next`; 0 before the first batch.
  double take_idle_share();

 private:
  using Clock = std::chrono::steady_clock;
  struct Slot {
    bool ready = false;
    Batch batch;
    std::exception_ptr error;
  };
  void work();

  Make make_;
  PrefetchOptions options_;
  std::mutex mutex_;
  std::condition_variable made_, taken_;
  std::map<Index, Slot> slots_;  // steps being made or waiting
  Index next_made_, next_taken_;
  bool stop_ = false;
  std::exception_ptr failed_;
  Clock::time_point since_{};
  Clock::duration waited_{};
  std::vector<std::thread> workers_;
};

}  // namespace ls::data
