// The processor as a device: a caching allocator, and a stream that does everything at once.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>

#include "core/base/error.h"
#include "core/base/memory.h"
#include "core/base/parallel_for.h"
#include "core/tensor/storage.h"

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

class CpuAllocator final : public Allocator {
 public:
  Device& device() const override { return cpu(); }
  Allocation allocate(Index bytes, Stream& home) override;
  void free(const Allocation& block) noexcept override;
  void set_mode(AllocatorMode mode) {
    const std::lock_guard lock(mutex_);
    mode_ = mode;
  }
  std::vector<std::string> take_violations() {
    const std::lock_guard lock(mutex_);
    return std::exchange(violations_, {});
  }

 private:
  void* from_system(const Allocation& block);
  void check_guard(const Allocation& block);

  std::mutex mutex_;
  std::map<Index, std::vector<void*>> free_blocks_;
  Index bytes_in_use_ = 0;  // asked for and not yet freed
  AllocatorMode mode_;
  std::vector<std::string> violations_;
};

// A new block of the system's; on failure once more without what is kept in the cache.
void* CpuAllocator::from_system(const Allocation& block) {
  const auto get = [&] {
    return std::aligned_alloc(kAlign, static_cast<std::size_t>(block.reserved));
  };
  void* base = get();
  if (!base) {
    const std::lock_guard lock(mutex_);
    for (auto& [bytes, blocks] : free_blocks_) {
      for (void* b : blocks) {
        std::free(b);
      }
    }
    free_blocks_.clear();
    base = get();
    if (!base) {
      bytes_in_use_ -= block.bytes;
      LS_FAIL(kDevice,
              "out of memory: {} bytes asked for while {} are in use; use a smaller batch, "
              "a shorter sequence or recomputation",
              block.bytes, bytes_in_use_);
    }
  }
  cpu().count_growth();
  make_present(base, block.reserved);
  return base;
}

Allocation CpuAllocator::allocate(Index bytes, Stream& /*home*/) {
  LS_CHECK(bytes >= 0, kInternal, "a buffer of {} bytes was asked for", bytes);
  Allocation block;
  block.bytes = bytes;
  bool poison = false;
  {
    const std::lock_guard lock(mutex_);
    // The system grants more than there is, and kills who then uses it.
    LS_CHECK(bytes <= kSurelyThere || bytes <= machine_memory() - bytes_in_use_, kDevice,
             "out of memory: {} bytes asked for while {} are in use, and this machine has {}; use "
             "a smaller batch, a shorter sequence or recomputation",
             bytes, bytes_in_use_, machine_memory());
    poison = mode_.poison;
    block.guarded = mode_.guard;
    const Index wanted = bytes + (block.guarded ? 2 * kGuardBytes : 0);
    block.reserved = kCache ? block_class(wanted, kAlign)
                            : std::max<Index>(kAlign, (wanted + kAlign - 1) / kAlign * kAlign);
    const auto it = free_blocks_.find(block.reserved);
    if (it != free_blocks_.end() && !it->second.empty()) {
      block.base = it->second.back();
      it->second.pop_back();
    }
    bytes_in_use_ += bytes;
  }
  if (!block.base) {
    block.base = from_system(block);
  }
  block.data = block.base;
  if (block.guarded) {
    std::memset(block.base, kGuardByte, static_cast<std::size_t>(block.reserved));
    block.data = static_cast<char*>(block.base) + kGuardBytes;
  }
  if (poison) {
    std::memset(block.data, 0xff, static_cast<std::size_t>(bytes));
  }
  return block;
}

void CpuAllocator::check_guard(const Allocation& block) {
  const auto* b = static_cast<const unsigned char*>(block.base);
  for (Index i = 0; i < block.reserved; ++i) {
    const bool inside = i >= kGuardBytes && i < kGuardBytes + block.bytes;
    if (!inside && b[i] != kGuardByte) {
      violations_.push_back(fmt::format("a buffer of {} bytes was written at offset {}",
                                        block.bytes, i - kGuardBytes));
      break;
    }
  }
}

void CpuAllocator::free(const Allocation& block) noexcept {
  const std::lock_guard lock(mutex_);
  if (block.guarded) {
    check_guard(block);
  }
  bytes_in_use_ -= block.bytes;
  if (!kCache) {
    std::free(block.base);
    return;
  }
  if (mode_.poison) {
    std::memset(block.base, 0xff, static_cast<std::size_t>(block.reserved));
  }
  free_blocks_[block.reserved].push_back(block.base);
}

CpuAllocator& cpu_allocator() {
  static auto* const instance = new CpuAllocator;  // outlives every static tensor
  return *instance;
}

/// Events have always happened, since their work is done when they are recorded.
class CpuStream final : public Stream {
 public:
  explicit CpuStream(Device& device) : Stream(device, 0) {}
  void copy(void* to, const void* from, Index bytes) override {
    std::memmove(to, from, static_cast<std::size_t>(bytes));
  }
  void fill(void* to, unsigned char value, Index bytes) override {
    std::memset(to, value, static_cast<std::size_t>(bytes));
  }
  void launch(std::function<void()> kernel, std::span<const Access> /*uses*/) override { kernel(); }

 protected:
  std::shared_ptr<Event::State> do_record() override { return nullptr; }
  void do_wait(const Event& event) override { event.synchronize(); }
  void do_synchronize() override {}
  void do_begin_capture() override {
    LS_FAIL(kUnsupported, "the processor records no graphs: its work is done when it is put in");
  }
  std::unique_ptr<RecordedWork> do_end_capture() override { return nullptr; }
};

class CpuDevice final : public Device {
 public:
  CpuDevice() : Device(DeviceType::kCpu, 0, what_it_is()), stream_(*this) {
    equip(stream_, reserve(MemoryKind::kDevice, equipment_bytes()));
  }
  Stream& default_stream() override { return stream_; }
  Stream& new_stream() override { return stream_; }
  Allocator& allocator() override { return cpu_allocator(); }
  Allocator& pinned() override { return cpu_allocator(); }
  void synchronize() override {}

 protected:
  void* reserve(MemoryKind, Index bytes) final {
    return std::aligned_alloc(kAlign, static_cast<std::size_t>(bytes));
  }
  void release(MemoryKind, void* data, Index) override { std::free(data); }

 private:
  static DeviceProperties what_it_is() {
    DeviceProperties p;
    p.model = "processor";
    p.memory = machine_memory();
    p.alignment = kAlign;
    p.host_accessible = true;
    p.runs_host_code = true;
    return p;
  }
  CpuStream stream_;
};

}  // namespace

Device& cpu() {
  static auto* const instance = new CpuDevice;
  return *instance;
}

void set_allocator_mode(AllocatorMode mode) {
  cpu_allocator().set_mode(mode);
}

std::vector<std::string> take_guard_violations() {
  return cpu_allocator().take_violations();
}

}  // namespace ls
