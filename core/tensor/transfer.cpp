// Copies between devices: through pinned memory, queued behind what is on the stream.
#include <cstring>

#include "core/tensor/context.h"
#include "core/tensor/graph.h"
#include "core/tensor/tensor.h"

namespace ls {
namespace {

bool is_pinned_for(const Tensor& host, Device& device) {
  return host.storage()->allocator() == &device.pinned();
}

/// Address of the first element, also where the host may not touch it.
void* address(const Tensor& t) {
  return TensorView(t).raw();
}

void record(const ExecutionContext& ctx, const Tensor& read, const Tensor& written) {
  const Tensor* const r[] = {&read};
  const Tensor* const w[] = {&written};
  record_uses(ctx, r, w);
}

}  // namespace

/// From the processor into memory of another device, both contiguous.
void Tensor::upload(const Tensor& source) {
  const ExecutionContext ctx = current_context(device());
  Tensor staged = source;
  if (!is_pinned_for(source, device())) {
    LS_CHECK(!ctx.stream.capturing(), kDevice,
             "{} is copied to {} while a graph is captured: every replay would copy the values of "
             "now; take a pinned tensor, whose memory stays",
             source.describe(), ctx.device.describe());
    staged = pinned(shape(), dtype(), device());
    std::memcpy(staged.raw(), source.raw(), static_cast<std::size_t>(bytes()));
  }
  ctx.stream.copy(address(*this), address(staged), bytes());
  record(ctx, staged, *this);
}

/// Between two devices other than the processor, both contiguous.
void Tensor::copy_between(const Tensor& source) {
  LS_CHECK(source.device().type() == device().type(), kUnsupported,
           "{} is copied from {} to {}: between devices of two types by way of the processor",
           source.describe(), source.device().describe(), device().describe());
  const ExecutionContext ctx = current_context(device());
  ctx.stream.wait(current_stream(source.device()).record());
  ctx.stream.copy(address(*this), address(source), bytes());
  record(ctx, source, *this);
}

Tensor& Tensor::transfer_(const Tensor& source) {
  LS_CHECK(source.shape() == shape() && source.dtype() == dtype(), kShape,
           "{} is transferred into {}; shape and type are the same", source.describe(), describe());
  if (&source.device() == &device()) {
    return copy_(source);
  }
  if (!is_contiguous()) {
    return copy_(source.to(device()));
  }
  const Tensor from = source.contiguous();
  if (!device().host_accessible()) {
    from.storage()->host_accessible() ? upload(from) : copy_between(from);
  } else if (is_pinned_for(*this, from.device())) {
    const ExecutionContext ctx = current_context(from.device());
    ctx.stream.copy(raw(), address(from), bytes());
    record(ctx, from, *this);
  } else {
    return copy_(from.to(device()));
  }
  bump_version();
  return *this;
}

Tensor Tensor::to(Device& device) const {
  if (&device == &this->device()) {
    return *this;
  }
  if (device.host_accessible()) {
    const Download download(*this);
    current_stream(this->device()).synchronize();
    return download.wait();
  }
  Tensor t = empty(shape(), dtype(), device);
  t.transfer_(*this);
  return t;
}

Download::Download(const Tensor& source) {
  if (source.storage()->host_accessible()) {
    host_ = source;
    return;
  }
  Device& device = source.device();
  host_ = Tensor::pinned(source.shape(), source.dtype(), device);
  host_.transfer_(source);
  done_ = current_stream(device).record();
}

const Tensor& Download::wait() const {
  done_.synchronize();
  return host_;
}

}  // namespace ls
