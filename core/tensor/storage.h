#pragma once
// Buffers: one piece of a device's memory, and the tests' poison and guard.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/types.h"
#include "core/tensor/allocator.h"

namespace ls {

/// Poison fills every new and every freed buffer with bytes 0xff (NaN in every float type, -1 in
/// integers); guard puts a known pattern on both sides and checks it when the buffer is freed. Of
/// the processor's memory.
/// Tests only: call before the first allocation of the code under test.
struct AllocatorMode {
  bool poison = false;
  bool guard = false;
};
void set_allocator_mode(AllocatorMode mode);
/// One line per buffer whose guard was found overwritten; empties the list.
std::vector<std::string> take_guard_violations();

/// One buffer, aligned to what its device wants (64 bytes on the processor). Under AddressSanitizer
/// every buffer of the processor is the system's own.
class Storage {
 public:
  /// Of the processor.
  explicit Storage(Index bytes) : Storage(bytes, cpu().allocator(), cpu().default_stream()) {}
  /// Of the memory that work on `home` gets.
  Storage(Index bytes, Stream& home);
  Storage(Index bytes, Allocator& allocator, Stream& home);
  /// Memory of the processor that somebody else owns.
  Storage(void* data, Index bytes);
  /// The whole of another buffer, which it keeps: whoever owns this one alone may write it, though
  /// the other is still in somebody's hands.
  explicit Storage(std::shared_ptr<Storage> lender);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  /// Where host_accessible() is false, an address to hand on and not to read.
  /// @throws Error(Internal) while it is dropped
  void* data() const {
    if (dropped_) {
      fail_dropped();
    }
    return block_.data;
  }
  Index bytes() const { return block_.bytes; }
  Device& device() const { return *device_; }
  const Allocator* allocator() const { return allocator_; }
  bool host_accessible() const { return host_accessible_; }
  /// Work in `user` by now reads or writes it: its memory goes to nobody before that is done.
  void record_use(Stream& user);
  /// Gives the memory back until `restore`, which gets memory again, not initialised and perhaps
  /// elsewhere, for work on `home`. Of what an allocator gave.
  void drop();
  void restore(Stream& home);
  bool dropped() const { return dropped_; }
  /// The elements are again those that they were at that version.
  void set_version(std::uint64_t version) { version_ = version; }
  /// Counts in-place changes; the tape compares it with the value at saving time.
  std::uint64_t version() const { return version_; }
  void bump_version() { ++version_; }

 private:
  [[noreturn]] static void fail_dropped();

  Allocation block_;
  Allocator* allocator_ = nullptr;  // null: not ours
  Device* device_ = nullptr;
  std::shared_ptr<Storage> lender_;
  std::shared_ptr<BlockPool> graphs_;  // outlives what lies in it
  std::uint64_t version_ = 0;
  bool host_accessible_ = true, dropped_ = false;
};

}  // namespace ls
