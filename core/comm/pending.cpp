#include "core/comm/pending.h"

#include <utility>

namespace ls {

Pending& Pending::operator=(Pending&& other) {
  if (this != &other) {
    const Pending before = std::move(*this);  // waits
    state_ = std::move(other.state_);
  }
  return *this;
}

Pending::~Pending() {
  try {
    wait();
  } catch (...) {  // NOLINT: nobody asked
  }
}

bool Pending::done() const {
  if (!state_) {
    return true;
  }
  const std::lock_guard lock(state_->mutex);
  return state_->done;
}

void Pending::wait() {
  const std::shared_ptr<State> state = std::exchange(state_, nullptr);
  if (!state) {
    return;
  }
  {
    std::unique_lock lock(state->mutex);
    state->changed.wait(lock, [&] { return state->done; });
  }
  if (state->failure) {
    std::rethrow_exception(state->failure);
  }
  if (state->finish) {
    state->finish();
  }
}

CommQueue::~CommQueue() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) {
    thread_.join();
  }
}

Pending CommQueue::begin(std::function<void()> operation, std::function<void()> finish) {
  Pending pending;
  pending.state_ = std::make_shared<Pending::State>();
  pending.state_->finish = std::move(finish);
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back({std::move(operation), pending.state_});
    if (!thread_.joinable()) {
      thread_ = std::thread([this] { work(); });
    }
  }
  changed_.notify_all();
  return pending;
}

void CommQueue::settle() {
  std::unique_lock lock(mutex_);
  if (thread_.get_id() == std::this_thread::get_id()) {
    return;
  }
  changed_.wait(lock, [&] { return tasks_.empty() && !busy_; });
}

void CommQueue::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return ending_ || !tasks_.empty(); });
    if (tasks_.empty()) {
      return;
    }
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    busy_ = true;
    lock.unlock();
    std::exception_ptr failure;
    try {
      task.operation();
    } catch (...) {
      failure = std::current_exception();
    }
    task.operation = nullptr;  // what it held goes before anybody hears of it
    {
      const std::lock_guard state(task.state->mutex);
      task.state->failure = failure;
      task.state->done = true;
    }
    task.state->changed.notify_all();
    lock.lock();
    busy_ = false;
    changed_.notify_all();
  }
}

}  // namespace ls
