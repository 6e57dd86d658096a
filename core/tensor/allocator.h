#pragma once
// Allocators: where buffers come from. The processor has one that caches blocks; every other device
// has pools whose blocks are ordered by its streams.
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor/device.h"

namespace ls {

/// Memory of one buffer.
struct Allocation {
  void* data = nullptr;
  Index bytes = 0;  ///< as asked for
  // What follows is its allocator's.
  void* base = nullptr;
  Index reserved = 0;
  bool guarded = false;
  void* record = nullptr;
};

class Allocator {
 public:
  virtual ~Allocator() = default;
  /// Of the memory: pinned memory of another device is the processor's.
  virtual Device& device() const = 0;
  /// For work on `home`, the stream that it belongs to.
  virtual Allocation allocate(Index bytes, Stream& home) = 0;
  /// Work that is put in from now on does not use it.
  virtual void free(const Allocation& block) noexcept = 0;
  /// Work in `user` by now uses the block: its memory goes to nobody before that is done.
  virtual void record_use(const Allocation& /*block*/, Stream& /*user*/) {}
};

/// Size classes: eight steps to each power of two, so at most 1/8 of a block is slack.
Index block_class(Index bytes, Index align);

/// Blocks that belong to the stream which they were allocated for: a freed one goes to the next
/// piece of work of its stream, though the last one is not done yet. What other streams did with it
/// (record_use) is waited for by its home before it is used again, never by the host, and which
/// block is taken never depends on what has happened by now. Blocks of pinned memory have no home:
/// they rest until all uses have happened.
class BlockPool : public Allocator, public std::enable_shared_from_this<BlockPool> {
 public:
  /// `graphs`: memory of graphs, which are never replayed at the same time.
  BlockPool(Device& device, MemoryKind kind, bool graphs = false);
  ~BlockPool() override;

  Device& device() const override;
  Allocation allocate(Index bytes, Stream& home) override;
  void free(const Allocation& block) noexcept override;
  void record_use(const Allocation& block, Stream& user) override;

  MemoryKind kind() const { return kind_; }
  bool of_graphs() const { return graphs_; }
  Index reserved_bytes() const;

  // Of graphs: between captures blocks belong to no stream.
  void begin_capture() { capturing_ = true; }
  void end_capture();
  /// Uses outside the graphs of blocks that the graphs may write again.
  std::vector<Event> take_outside_uses();

 private:
  struct Record {
    void* data = nullptr;
    Index bytes = 0;
    Stream* home = nullptr;  // null: any
    bool live = false;
    std::vector<Event> uses;  // the last of each other stream
  };
  using Key = std::pair<Stream*, Index>;

  Record* take_free(Index bytes, Stream* home);
  Record* carve(Index bytes, Stream* home);

  Device& source_;
  MemoryKind kind_;
  bool graphs_;
  bool capturing_ = false;
  mutable std::mutex mutex_;
  std::map<Key, std::deque<Record*>> free_;
  std::vector<std::unique_ptr<Record>> records_;
  std::vector<std::pair<void*, Index>> reservations_;
  char* slab_ = nullptr;
  Index slab_left_ = 0;
  std::vector<Event> outside_uses_;
};

}  // namespace ls
