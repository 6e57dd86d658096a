#pragma once
// Who wrote and who read each byte of a device's memory last, as vector clocks: work that is not in
// order with it is an error whenever it is put in, however the queues happen to run.
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/tensor/allocator.h"

namespace ls::test {

/// For each stream how much of its work comes before.
class Clock {
 public:
  Index operator[](int stream) const {
    return stream < std::ssize(ticks_) ? ticks_[static_cast<std::size_t>(stream)] : 0;
  }
  void set(int stream, Index tick);
  void join(const Clock& other);

 private:
  std::vector<Index> ticks_;
};

/// One piece of work: the stream that it is on, what comes before it, and its name for messages.
struct Work {
  int stream = 0;
  Clock before;  ///< its own tick is before[stream]
  std::string name;
  bool captured = false;  ///< put into a graph: nothing is done now
  bool replayed = false;
};

class AccessLog {
 public:
  /// `of_graph`: for work of a graph that is being captured.
  void allocated(const void* data, Index bytes, bool of_graph);
  void freed(const void* data);

  /// The buffer is there, and work that is no graph's does not write into a graph's memory.
  /// Returns the buffer's number, which tells it from others at its address.
  /// @throws Error(Device)
  Index check_buffer(const Work& work, const Access& access) const;
  /// The work comes after what it depends on, and is what later work depends on.
  /// @throws Error(Device) naming both pieces of work
  void check_order(const Work& work, const Access& access);
  /// Number of the live buffer at the address, 0 where there is none or it is a graph's.
  Index number_at(const void* data) const;
  /// Addresses from `begin` on hold buffers; elsewhere (pinned memory) only order counts.
  void watch(const void* begin, Index bytes) {
    begin_ = address(begin);
    end_ = begin_ + static_cast<std::uintptr_t>(bytes);
  }

 private:
  using Address = std::uintptr_t;
  struct Use {
    int stream = -1;
    Index tick = 0;
    std::string name;
  };
  struct Range {
    Address end = 0;
    Use write;
    std::vector<Use> reads;  // the last of each stream
  };
  struct Buffer {
    Index bytes = 0;
    Index number = 0;
    bool live = false, of_graphs = false;
  };
  static Address address(const void* p) { return reinterpret_cast<Address>(p); }
  const Buffer* find(Address at, Address& begin) const;
  void split(Address at);

  Address begin_ = 0, end_ = 0;
  std::map<Address, Range> ranges_;
  std::map<Address, Buffer> buffers_;
  Index last_number_ = 0;
};

}  // namespace ls::test
