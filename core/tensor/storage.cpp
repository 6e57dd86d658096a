#include "core/tensor/storage.h"

#include "core/base/error.h"
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

void Storage::drop() {
  LS_CHECK(allocator_ && !dropped_, kInternal, "a buffer of {} bytes cannot be dropped",
           block_.bytes);
  allocator_->free(block_);
  dropped_ = true;
}

void Storage::restore(Stream& home) {
  LS_CHECK(dropped_, kInternal, "a buffer of {} bytes is there already", block_.bytes);
  allocator_ = &home.allocator();
  block_ = allocator_->allocate(block_.bytes, home);
  graphs_ = home.capturing() ? home.current_capture()->memory : nullptr;
  dropped_ = false;
}

void Storage::fail_dropped() {
  LS_FAIL(kInternal, "{}",
          "elements are used whose memory was given back: of a block of parameters, outside of its "
          "hold (ag::Hold)");
}

Storage::~Storage() {
  if (allocator_ && !dropped_) {
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
