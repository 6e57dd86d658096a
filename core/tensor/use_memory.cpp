#include "core/tensor/use_memory.h"

#include <atomic>
#include <vector>

namespace ls {
namespace {

thread_local std::vector<std::pair<const Device*, Allocator*>> lenders_in_use;

}  // namespace

// An allocator of its own, so that a graph sees that what it gave comes from outside; it lives
// until all of that is free.
class UseMemory::Lender final : public Allocator {
 public:
  explicit Lender(std::shared_ptr<BlockPool> memory) : memory_(std::move(memory)) {}
  Device& device() const override { return memory_->device(); }
  Allocation allocate(Index bytes, Stream& home) override {
    const Allocation block = memory_->allocate(bytes, home);
    ++users_;
    return block;
  }
  void free(const Allocation& block) noexcept override {
    memory_->free(block);
    leave();
  }
  void record_use(const Allocation& block, Stream& user) override {
    memory_->record_use(block, user);
  }
  void leave() noexcept {
    if (--users_ == 0) {
      delete this;
    }
  }

 private:
  std::shared_ptr<BlockPool> memory_;
  std::atomic<Index> users_ = 1;  // the guard, and what is alive
};

UseMemory::UseMemory(Device& device, std::shared_ptr<BlockPool> memory)
    : device_(device), lender_(new Lender(std::move(memory))) {
  lenders_in_use.emplace_back(&device_, lender_);
}

UseMemory::~UseMemory() {
  lenders_in_use.pop_back();
  lender_->leave();
}

Allocator* UseMemory::of(const Device& device) {
  for (auto it = lenders_in_use.rbegin(); it != lenders_in_use.rend(); ++it) {
    if (it->first == &device) {
      return it->second;
    }
  }
  return nullptr;
}

}  // namespace ls
