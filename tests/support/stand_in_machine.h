#pragma once
// What the stand-in devices of one machine share: memory, queues and the order in which they run.
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "core/base/rng.h"
#include "tests/support/access_log.h"
#include "tests/support/stand_in.h"

namespace ls::test {

/// Memory under two addresses: what the host holds is protected.
class TwiceMapped {
 public:
  TwiceMapped();
  ~TwiceMapped();
  TwiceMapped(const TwiceMapped&) = delete;
  TwiceMapped& operator=(const TwiceMapped&) = delete;
  void* take(Index bytes);
  void give_back(void* data, Index bytes);
  bool holds(const void* data) const;
  void* for_kernels(void* data) const;
  const void* begin() const { return host_; }
  static constexpr Index kBytes = Index{1} << 34;  // of addresses: pages come when they are used

 private:
  int file_ = -1;
  char* host_ = nullptr;
  char* kernels_ = nullptr;
  Index taken_ = 0;
};

struct StandInEvent final : Event::State {
  explicit StandInEvent(StandInMachine& machine) : machine(machine) {}
  bool happened() const override;
  void wait_on_host() override;

  StandInMachine& machine;
  bool done = false;
  Clock clock;
  int number = -1;  ///< within the recording that it is part of
};

/// A piece of work, or an event to record or to wait for.
struct Item {
  enum class Kind : std::uint8_t { kWork, kRecord, kWait };
  Kind kind = Kind::kWork;
  std::function<void()> run;
  std::vector<Access> uses;
  std::vector<Index> buffers;  ///< of uses, by AccessLog's number; 0 where it may change
  std::shared_ptr<StandInEvent> event;
  std::string name;
};

/// What a capture has recorded: items in the order of the calls, each on a branch.
class Recording final : public RecordedWork {
 public:
  struct Node {
    int branch = 0;
    Item item;
  };
  explicit Recording(StandIn& device) : device_(device) {}
  int branch_of(StandInStream& stream);
  void release_streams();
  void add(StandInStream& stream, Item item);
  /// @throws Error(Device) where a branch does not end in the first
  void check_joined() const;
  void replay(Stream& stream) override;

 private:
  StandIn& device_;
  std::vector<StandInStream*> captured_;  // stream of each branch
  std::vector<Clock> clocks_;             // of each branch
  std::vector<Node> nodes_;
  std::vector<std::unique_ptr<StandInStream>> streams_;  // on which branches but the first run
  int events_ = 0;
};

class StandInStream final : public Stream {
 public:
  StandInStream(StandIn& device, int index);
  ~StandInStream() override;

  void copy(void* to, const void* from, Index bytes) override;
  void fill(void* to, unsigned char value, Index bytes) override;
  void launch(std::function<void()> kernel, std::span<const Access> uses) override;

 protected:
  std::shared_ptr<Event::State> do_record() override;
  void do_wait(const Event& event) override;
  void do_synchronize() override;
  void do_begin_capture() override;
  std::unique_ptr<RecordedWork> do_end_capture() override;

 private:
  friend class Recording;
  friend class StandInMachine;
  void work(const char* kind, std::function<void()> run, std::vector<Access> uses);

  StandInMachine& machine_;
  StandIn& owner_;
  int id_ = 0;  // in the machine's clocks
  Clock clock_;
  int recorded_kernels_ = 0;                  // since a recording began here
  Recording* recording_ = nullptr;            // that it is part of
  std::unique_ptr<Recording> own_recording_;  // that began here
  std::deque<Item> queue_;
  std::thread thread_;
};

class StandInMachine {
 public:
  explicit StandInMachine(std::uint64_t seed);
  ~StandInMachine();
  StandInMachine(const StandInMachine&) = delete;
  StandInMachine& operator=(const StandInMachine&) = delete;

  /// Checks the order of what the item uses, and puts it behind the stream's others.
  void put(StandInStream& stream, Item item, bool replayed);
  void check_buffers(StandInStream& stream, Item& item);
  /// The host waits until the stream has nothing left, or the event has happened.
  void wait_for(StandInStream& stream);
  void wait_for(const StandInEvent& event);
  /// Some work is done, or none: the host asked whether an event has happened.
  bool look(const StandInEvent& event);

  int add(StandInStream& stream);
  void remove(StandInStream& stream);
  /// As StandIn::run_by_itself; until `come_to_rest`.
  void run_by_itself();
  void come_to_rest();
  /// Does all that is left; faults stay for the next call.
  void drain();
  int devices = 0;

  TwiceMapped memory;
  AccessLog log;
  std::map<void*, Index> pinned;  ///< reservations of pinned memory
  std::recursive_mutex host;      ///< of everything above; one thread of the host at a time

 private:
  void serve(StandInStream& stream);
  bool step();
  void some_steps(Index at_most);
  void throw_fault();
  static bool ready(const StandInStream& stream);

  Rng rng_;
  std::thread driver_;
  std::atomic<bool> drives_ = false;
  Clock host_clock_;
  std::vector<StandInStream*> streams_;  // by id; null where one has gone
  std::exception_ptr fault_;             // of work that was done late
  // The queues' threads and the host take turns.
  std::mutex turn_mutex_;
  std::condition_variable turn_changed_;
  StandInStream* turn_ = nullptr;
  Item item_;  // what the thread whose turn it is does
  std::set<StandInStream*> ending_;
};

}  // namespace ls::test
