#pragma once
// Where the time of a step goes: seconds by op and direction. Off until started; then one clock
// reading at the beginning and the end of each call, of the wall clock or of a device's queue.
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/types.h"

namespace ls::profile {

/// All calls of one name. Seconds are its own: what nested entries take counts for them alone.
struct Entry {
  std::string name;  ///< an op, or a piece of the trainer's work
  std::string part;  ///< "forward", "backward" or empty
  Index calls = 0;
  double seconds = 0;
  double bytes = 0, flops = 0;  ///< declared costs of the calls; 0 when not declared
};

/// Reads the time of a queue of work, for calls that only put work there.
class QueueClock {
 public:
  virtual ~QueueClock() = default;
  /// Puts a mark into the queue where this thread's work goes.
  virtual int mark() = 0;
  /// Marks are being recorded with the work, and are passed again at every replay.
  virtual bool recording() const = 0;
  /// From one mark to a later one, when both have been passed last.
  virtual double seconds(int from, int to) = 0;
};

/// Begins with nothing recorded. Only the thread that starts it is recorded. With a clock, times
/// are known when `collect` is called.
void start(std::unique_ptr<QueueClock> clock = nullptr);
/// Adds the calls whose marks were passed since the last time: those that were put into the queue,
/// and those of the work that was replayed. The queue is empty.
void collect();
/// Recorded work begins; its number for `replayed`, 0 where nothing is profiled.
int begin_work();
void replayed(int work);
/// What was recorded, the longest first; nothing is recorded any more.
std::vector<Entry> stop();
/// True on the thread that started.
bool running();

/// Times its own lifetime as one call. `name` must outlive it.
class Scope {
 public:
  explicit Scope(std::string_view name, std::string_view part = {});
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
  void cost(double bytes, double flops);

 private:
  std::string_view name_, part_;
  Scope* outer_ = nullptr;
  double begin_ = 0, nested_ = 0, bytes_ = 0, flops_ = 0;
  int recording_ = 0;  // 0: nothing was recorded when it began
  int call_ = -1;      // with a queue's clock: place among the calls of `work_`
  int work_ = 0;
};

}  // namespace ls::profile
