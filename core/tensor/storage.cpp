#include "core/tensor/storage.h"

#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#include "core/base/error.h"
#include "core/base/memory.h"
#include "core/base/parallel_for.h"

namespace ls {
namespace {

constexpr Index kAlign = 64;
constexpr Index kGuardBytes = 64;
constexpr unsigned char kGuardByte = 0xa5;
constexpr Index kSurelyThere = 1 << 20;  // not worth a look at how much memory there is

#ifdef LS_SANITIZE
constexpr bool kCache = false;  // the sanitizer must see every allocation and every free
#else
constexpr bool kCache = true;
#endif

struct Pool {
  std::mutex mutex;
  std::map<Index, std::vector<void*>> free_blocks;
  Index bytes_in_use = 0;  // asked for and not yet freed
  AllocatorMode mode;
  std::vector<std::string> violations;
};

Pool& pool() {
  static Pool* const instance = new Pool;  // outlives every static tensor
  return *instance;
}

// Size classes: eight steps to each power of two, so at most 1/8 of a block is slack.
Index class_bytes(Index bytes) {
  if (bytes <= 1024) {
    return (bytes + kAlign - 1) / kAlign * kAlign + (bytes == 0 ? kAlign : 0);
  }
  const Index step = static_cast<Index>(std::bit_floor(static_cast<std::uint64_t>(bytes))) / 8;
  return (bytes + step - 1) / step * step;
}

// Pages of a new block, made present by all threads at once: one system call for each piece where
// touching them would be one exception a page.
void make_present(void* block, Index bytes) {
#ifdef MADV_POPULATE_WRITE
  constexpr Index kLeast = 1 << 20;
  if (!kCache || bytes < kLeast) {
    return;
  }
  static const auto page = static_cast<Index>(sysconf(_SC_PAGESIZE));
  const auto begin = static_cast<Index>(reinterpret_cast<std::uintptr_t>(block));
  const Index first = (begin + page - 1) / page, last = (begin + bytes) / page;
  parallel_for(last - first, kLeast / page / 2, [&](Index p0, Index p1) {
    madvise(reinterpret_cast<void*>((first + p0) * page),
            static_cast<std::size_t>((p1 - p0) * page), MADV_POPULATE_WRITE);
  });
#else
  static_cast<void>(block), static_cast<void>(bytes);
#endif
}

// Returns every cached block to the system.
void release_cached_memory() {
  const std::lock_guard lock(pool().mutex);
  for (auto& [bytes, blocks] : pool().free_blocks) {
    for (void* block : blocks) {
      std::free(block);
    }
  }
  pool().free_blocks.clear();
}

}  // namespace

void set_allocator_mode(AllocatorMode mode) {
  const std::lock_guard lock(pool().mutex);
  pool().mode = mode;
}

std::vector<std::string> take_guard_violations() {
  const std::lock_guard lock(pool().mutex);
  return std::exchange(pool().violations, {});
}

Storage::Storage(Index bytes) : bytes_(bytes) {
  LS_CHECK(bytes >= 0, kInternal, "a buffer of {} bytes was asked for", bytes);
  Pool& p = pool();
  // The system grants more than there is, and kills who then uses it.
  if (Index used = 0; bytes > kSurelyThere) {
    {
      const std::lock_guard lock(p.mutex);
      used = p.bytes_in_use;
    }
    LS_CHECK(bytes <= machine_memory() - used, kDevice,
             "out of memory: {} bytes asked for while {} are in use, and this machine has {}; use "
             "a smaller batch, a shorter sequence or recomputation",
             bytes, used, machine_memory());
  }
  AllocatorMode mode;
  {
    const std::lock_guard lock(p.mutex);
    mode = p.mode;
    guarded_ = mode.guard;
    block_bytes_ = kCache
                       ? class_bytes(bytes + (guarded_ ? 2 * kGuardBytes : 0))
                       : std::max<Index>(kAlign, (bytes + 2 * kGuardBytes * guarded_ + kAlign - 1) /
                                                     kAlign * kAlign);
    const auto it = p.free_blocks.find(block_bytes_);
    if (it != p.free_blocks.end() && !it->second.empty()) {
      block_ = it->second.back();
      it->second.pop_back();
    }
    p.bytes_in_use += bytes_;
  }
  const bool fresh = !block_;
  if (!block_) {
    block_ = std::aligned_alloc(kAlign, static_cast<std::size_t>(block_bytes_));
    if (!block_) {
      release_cached_memory();
      block_ = std::aligned_alloc(kAlign, static_cast<std::size_t>(block_bytes_));
    }
    if (!block_) {
      const std::lock_guard lock(p.mutex);
      p.bytes_in_use -= bytes_;
      LS_FAIL(kDevice,
              "out of memory: {} bytes asked for while {} are in use; use a smaller batch, "
              "a shorter sequence or recomputation",
              bytes_, p.bytes_in_use);
    }
  }
  data_ = block_;
  if (fresh) {
    make_present(block_, block_bytes_);
  }
  if (guarded_) {
    std::memset(block_, kGuardByte, static_cast<std::size_t>(block_bytes_));
    data_ = static_cast<char*>(block_) + kGuardBytes;
  }
  if (mode.poison) {
    std::memset(data_, 0xff, static_cast<std::size_t>(bytes_));
  }
}

Storage::~Storage() {
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  if (guarded_) {
    const auto* b = static_cast<const unsigned char*>(block_);
    for (Index i = 0; i < block_bytes_; ++i) {
      const bool inside = i >= kGuardBytes && i < kGuardBytes + bytes_;
      if (!inside && b[i] != kGuardByte) {
        p.violations.push_back(
            fmt::format("a buffer of {} bytes was written at offset {}", bytes_, i - kGuardBytes));
        break;
      }
    }
  }
  p.bytes_in_use -= bytes_;
  if (!kCache) {
    std::free(block_);
    return;
  }
  if (p.mode.poison) {
    std::memset(block_, 0xff, static_cast<std::size_t>(block_bytes_));
  }
  p.free_blocks[block_bytes_].push_back(block_);
}

}  // namespace ls
