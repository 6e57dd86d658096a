#pragma once
// Graphs: what was put on a stream once, recorded with its addresses, and done again by one call.
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "core/tensor/allocator.h"
#include "core/tensor/storage.h"

namespace ls {

/// A recording under way. It ends with all its streams joined into the first.
struct Capture {
  std::shared_ptr<BlockPool> memory;
  std::vector<Stream*> streams;
  std::map<Storage*, std::shared_ptr<Storage>> held;  ///< from outside: the addresses stay valid
  std::map<Storage*, std::weak_ptr<Storage>> written;
  bool finished = false;

  void note(const std::shared_ptr<Storage>& storage, bool write);
};

/// Memory for graphs of one device that never run at the same time: each may use what another
/// leaves. What is alive after a capture belongs to whoever holds it.
std::shared_ptr<BlockPool> graph_memory(Device& device);

class Graph {
 public:
  /// Records what `body` puts on `stream`, and on streams that it makes wait for it, in place of
  /// doing it. Memory for it comes from `memory`; what it uses from outside it keeps.
  /// @throws Error(Device) where the body waits for the device or leaves a stream unjoined
  Graph(Stream& stream, std::shared_ptr<BlockPool> memory, const std::function<void()>& body);
  Graph(Graph&&) noexcept = default;
  Graph& operator=(Graph&&) noexcept = default;

  /// Puts all of it on `stream`; counts as a change of every tensor that it writes.
  void replay(Stream& stream);

 private:
  std::shared_ptr<Capture> capture_;
  std::unique_ptr<RecordedWork> work_;
  int profiled_ = 0;  // profile::begin_work
};

}  // namespace ls
