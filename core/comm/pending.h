#pragma once
// Operations that go on while their caller works.
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace ls {

/// One operation under way, and its buffers, which are its own until it is waited for. Destroyed,
/// it waits and says nothing of what went wrong.
class Pending {
 public:
  Pending() = default;
  Pending(Pending&&) = default;
  Pending& operator=(Pending&& other);
  ~Pending();

  bool done() const;
  /// Until it is done and its results are where they belong; nothing where there is none, or it was
  /// waited for. @throws what the operation threw
  void wait();

 private:
  friend class CommQueue;
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    std::exception_ptr failure;
    std::function<void()> finish;  ///< on the waiting thread
  };
  std::shared_ptr<State> state_;
};

/// Runs the operations of one communicator in order, on a thread that the first one starts.
class CommQueue {
 public:
  CommQueue() = default;
  ~CommQueue();
  CommQueue(const CommQueue&) = delete;
  CommQueue& operator=(const CommQueue&) = delete;

  /// `operation` runs on the queue's thread, `finish` on the one that waits.
  Pending begin(std::function<void()> operation, std::function<void()> finish);
  /// Returns when everything that was begun is done; at once on the queue's own thread.
  void settle();

 private:
  void work();

  struct Task {
    std::function<void()> operation;
    std::shared_ptr<Pending::State> state;
  };
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool busy_ = false, ending_ = false;
  std::thread thread_;
};

}  // namespace ls
