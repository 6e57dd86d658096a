#pragma once
// Buffers: a caching allocator, with a poison-and-guard mode for tests.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/types.h"

namespace ls {

/// Poison fills every new and every freed buffer with bytes 0xff (NaN in every float type, -1 in
/// integers); guard puts a known pattern on both sides and checks it when the buffer is freed.
/// Tests only: call before the first allocation of the code under test.
struct AllocatorMode {
  bool poison = false;
  bool guard = false;
};
void set_allocator_mode(AllocatorMode mode);
/// One line per buffer whose guard was found overwritten; empties the list.
std::vector<std::string> take_guard_violations();

/// One buffer, aligned to 64 bytes. Under AddressSanitizer every buffer is the system's own.
class Storage {
 public:
  explicit Storage(Index bytes);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  Index bytes() const { return bytes_; }
  /// Counts in-place changes; the tape compares it with the value at saving time.
  std::uint64_t version() const { return version_; }
  void bump_version() { ++version_; }

 private:
  void* data_ = nullptr;
  void* block_ = nullptr;
  Index bytes_ = 0;
  Index block_bytes_ = 0;
  std::uint64_t version_ = 0;
  bool guarded_ = false;
};

}  // namespace ls
