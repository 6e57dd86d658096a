#include "data/prefetch.h"

#include <algorithm>
#include <utility>

#include "core/base/error.h"

namespace ls::data {

Prefetcher::Prefetcher(Make make, const PrefetchOptions& options)
    : make_(std::move(make)),
      options_(options),
      next_made_(options.first_step),
      next_taken_(options.first_step) {
  LS_CHECK(
      options.workers >= 0 && options.depth >= 1, kConfig,
      "prefetching needs a depth of at least 1 and no negative number of workers, got {} and {}",
      options.depth, options.workers);
  for (int i = 0; i < options.workers; ++i) {
    workers_.emplace_back([this] { work(); });
  }
}

Prefetcher::~Prefetcher() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  taken_.notify_all();
  for (std::thread& worker : workers_) {
    worker.join();
  }
}

void Prefetcher::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    taken_.wait(lock, [this] {
      return stop_ ||
             (next_made_ - next_taken_ < options_.depth && next_made_ != options_.end_step);
    });
    if (stop_) {
      return;
    }
    const Index step = next_made_++;
    Slot& slot = slots_[step];  // a map: stays put while other steps come and go
    lock.unlock();
    Batch batch;
    std::exception_ptr error;
    try {
      batch = make_(step);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    slot.batch = std::move(batch);
    slot.error = error;
    slot.ready = true;
    stop_ |= error != nullptr;  // nothing past a failed step will be asked for
    made_.notify_all();
  }
}

Batch Prefetcher::next() {
  const Clock::time_point start = Clock::now();
  if (since_ == Clock::time_point{}) {
    since_ = start;
  }
  std::unique_lock lock(mutex_);
  if (failed_) {
    std::rethrow_exception(failed_);
  }
  const Index step = next_taken_;
  LS_CHECK(step != options_.end_step, kInternal, "no batch {}: the last one has been taken", step);
  Slot slot;
  if (workers_.empty()) {
    try {
      slot.batch = make_(step);
    } catch (...) {
      slot.error = std::current_exception();
    }
  } else {
    made_.wait(lock, [&] {
      const auto it = slots_.find(step);
      return it != slots_.end() && it->second.ready;
    });
    slot = std::move(slots_.at(step));
    slots_.erase(step);
  }
  waited_ += Clock::now() - start;
  if (slot.error) {
    failed_ = slot.error;
    std::rethrow_exception(failed_);
  }
  ++next_taken_;
  taken_.notify_one();
  return std::move(slot.batch);
}

double Prefetcher::take_idle_share() {
  const Clock::time_point now = Clock::now();
  const Clock::duration passed = now - since_;
  if (since_ == Clock::time_point{} || passed <= Clock::duration::zero()) {
    return 0;
  }
  const double share =
      std::chrono::duration<double>(waited_) / std::chrono::duration<double>(passed);
  since_ = now;
  waited_ = {};
  return std::min(1.0, share);
}

}  // namespace ls::data
