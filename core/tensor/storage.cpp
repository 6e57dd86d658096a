#include "core/tensor/storage.h"

#include "core/tensor/graph.h"

namespace ls {

Storage::Storage(Index bytes, Allocator& allocator, Stream& home)
    : block_(allocator.allocate(bytes, home)),
      allocator_(&allocator),
      device_(&allocator.device()) {
  host_accessible_ = device_->host_accessible();
}

Storage::Storage(Index bytes, Stream& home) : Storage(bytes, home.allocator(), home) {
  if (home.capturing()) {
    graphs_ = home.current_capture()->memory;
  }
}

Storage::Storage(void* data, Index bytes) : device_(&cpu()) {
  block_.data = data;
  block_.bytes = bytes;
}

Storage::Storage(std::shared_ptr<Storage> lender)
    : block_(lender->block_),
      device_(lender->device_),
      lender_(std::move(lender)),
      host_accessible_(lender_->host_accessible_) {}

Storage::~Storage() {
  if (allocator_) {
    allocator_->free(block_);
  }
}

void Storage::record_use(Stream& user) {
  if (lender_) {
    lender_->record_use(user);
  } else if (allocator_) {
    allocator_->record_use(block_, user);
  }
}

}  // namespace ls
