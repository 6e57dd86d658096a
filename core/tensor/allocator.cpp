#include "core/tensor/allocator.h"

#include <algorithm>
#include <bit>

#include "core/base/error.h"

namespace ls {
namespace {

constexpr Index kSlabBytes = Index{1} << 21;  // blocks of up to half of it are cut from slabs

/// Free blocks that are reservations of their own leave the lists of a pool; `release` gets each.
template <class FreeBlocks, class Records, class Reservations, class Release>
void drop_unused(FreeBlocks& free, Records& records, Reservations& reservations, Release release) {
  for (auto& [key, blocks] : free) {
    if (key.second <= kSlabBytes / 2) {
      continue;
    }
    for (auto* r : blocks) {
      release(r->data, r->bytes);
      std::erase(reservations, std::pair(r->data, r->bytes));
      std::erase_if(records, [r](const auto& one) { return one.get() == r; });
    }
    blocks.clear();
  }
}

template <class Records, class Reservations>
[[noreturn]] void out_of_memory(const Device& device, Index bytes, const Records& records,
                                const Reservations& reservations) {
  Index held = 0, used = 0, largest = 0;
  for (const auto& [data, n] : reservations) {
    held += n;
  }
  for (const auto& r : records) {
    used += r->live ? r->bytes : 0;
    largest = std::max(largest, r->live ? r->bytes : 0);
  }
  const auto mib = [](Index n) { return static_cast<double>(n) / (1 << 20); };
  LS_FAIL(kDevice,
          "{} is out of memory: {:.1f} MiB more were asked for; of its {:.0f} MiB this pool holds "
          "{:.1f}, of which {:.1f} are in use ({:.1f} by the largest buffer); other pools and "
          "processes have the rest. Use a smaller batch, accumulation, recomputation, or a shorter "
          "sequence",
          device.describe(), mib(bytes), mib(device.properties().memory), mib(held), mib(used),
          mib(largest));
}

/// False where it cannot, as while a graph is captured.
bool wait_for_all(Device& device) {
  try {
    device.synchronize();
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

Index block_class(Index bytes, Index align) {
  if (bytes <= 16 * align) {
    return std::max<Index>(1, (bytes + align - 1) / align) * align;
  }
  const Index step = static_cast<Index>(std::bit_floor(static_cast<std::uint64_t>(bytes))) / 8;
  return (bytes + step - 1) / step * step;
}

BlockPool::BlockPool(Device& device, MemoryKind kind, bool graphs)
    : source_(device), kind_(kind), graphs_(graphs) {}

BlockPool::~BlockPool() {
  for (const auto& [data, bytes] : reservations_) {
    source_.release(kind_, data, bytes);
  }
}

Device& BlockPool::device() const {
  return kind_ == MemoryKind::kPinned ? cpu() : source_;
}

Index BlockPool::reserved_bytes() const {
  const std::lock_guard lock(mutex_);
  Index sum = 0;
  for (const auto& [data, bytes] : reservations_) {
    sum += bytes;
  }
  return sum;
}

BlockPool::Record* BlockPool::take_free(Index bytes, Stream* home) {
  const auto it = free_.find({home, bytes});
  if (it == free_.end()) {
    return nullptr;
  }
  std::deque<Record*>& blocks = it->second;
  const auto rests = [&](const Record* r) {
    if (kind_ == MemoryKind::kDevice) {
      return r->uses.empty();
    }
    return std::all_of(r->uses.begin(), r->uses.end(), [](const Event& e) { return e.happened(); });
  };
  auto found = std::find_if(blocks.begin(), blocks.end(), rests);
  if (found == blocks.end()) {
    if (blocks.empty() || kind_ == MemoryKind::kPinned) {
      return nullptr;
    }
    found = blocks.begin();  // its home waits; to grow instead would have no bound
  }
  Record* const r = *found;
  blocks.erase(found);
  return r;
}

BlockPool::Record* BlockPool::carve(Index bytes, Stream* home) {
  const auto reserve = [&](Index n) {
    void* const data = source_.reserve(kind_, n);
    if (data) {
      source_.count_growth();
      reservations_.emplace_back(data, n);
    }
    return static_cast<char*>(data);
  };
  char* data = nullptr;
  if (bytes > kSlabBytes / 2) {
    data = reserve(bytes);
    if (!data) {
      return nullptr;
    }
  } else {
    if (slab_left_ < bytes) {
      char* const slab = reserve(kSlabBytes);
      if (!slab) {
        return nullptr;
      }
      slab_ = slab;
      slab_left_ = kSlabBytes;
    }
    data = slab_;
    slab_ += bytes;
    slab_left_ -= bytes;
  }
  records_.push_back(std::make_unique<Record>(Record{data, bytes, home, false, {}}));
  return records_.back().get();
}

Allocation BlockPool::allocate(Index bytes, Stream& stream) {
  LS_CHECK(bytes >= 0, kInternal, "a buffer of {} bytes was asked for", bytes);
  Stream* const home = kind_ == MemoryKind::kPinned ? nullptr : &stream;
  const Index size = block_class(bytes, source_.properties().alignment);
  std::vector<Event> uses;
  const auto take = [&] {
    const std::lock_guard lock(mutex_);
    Record* r = take_free(size, home);
    r = !r && graphs_ ? take_free(size, nullptr) : r;
    r = r ? r : carve(size, home);
    if (r) {
      r->home = home;
      r->live = true;
      uses.swap(r->uses);
    }
    return r;
  };
  Record* r = take();
  // Graphs keep what is free: they were recorded with its addresses.
  if (!r && !graphs_ && wait_for_all(source_)) {
    {
      const std::lock_guard lock(mutex_);
      drop_unused(free_, records_, reservations_,
                  [&](void* data, Index n) { source_.release(kind_, data, n); });
    }
    r = take();
  }
  if (!r) {
    const std::lock_guard lock(mutex_);
    out_of_memory(source_, size, records_, reservations_);
  }
  if (kind_ == MemoryKind::kDevice) {
    for (const Event& use : uses) {
      stream.wait(use);
    }
    source_.note_allocated(*this, r->data, size, home);
  }
  Allocation block;
  block.data = block.base = r->data;
  block.bytes = bytes;
  block.reserved = size;
  block.record = r;
  return block;
}

void BlockPool::free(const Allocation& block) noexcept {
  auto* const r = static_cast<Record*>(block.record);
  if (kind_ == MemoryKind::kDevice) {
    source_.note_freed(*this, r->data, r->bytes, r->home);
  }
  const std::lock_guard lock(mutex_);
  r->live = false;
  if (graphs_ && !capturing_) {
    outside_uses_.insert(outside_uses_.end(), r->uses.begin(), r->uses.end());
    r->uses.clear();
  }
  free_[{r->home, r->bytes}].push_front(r);
}

void BlockPool::record_use(const Allocation& block, Stream& user) {
  auto* const r = static_cast<Record*>(block.record);
  if (r->home == &user || (user.capturing() && !graphs_)) {
    return;  // in order anyway; or the graph keeps the block
  }
  const Event event = user.record();
  const std::lock_guard lock(mutex_);
  for (Event& use : r->uses) {
    if (use.stream() == &user) {
      use = event;
      return;
    }
  }
  r->uses.push_back(event);
}

void BlockPool::end_capture() {
  const std::lock_guard lock(mutex_);
  capturing_ = false;
  std::map<Key, std::deque<Record*>> free;
  for (const auto& [key, blocks] : free_) {
    auto& joined = free[{nullptr, key.second}];
    joined.insert(joined.end(), blocks.begin(), blocks.end());
  }
  free_ = std::move(free);
  for (const auto& r : records_) {
    r->home = nullptr;
    r->uses.clear();
  }
}

std::vector<Event> BlockPool::take_outside_uses() {
  const std::lock_guard lock(mutex_);
  return std::exchange(outside_uses_, {});
}

}  // namespace ls
