#include "core/comm/host_message.h"

#include <cstring>
#include <utility>

namespace ls {
namespace {

bool is_host(const Tensor& t) {
  return &t.device() == &cpu();
}

}  // namespace

HostMessage::HostMessage(std::vector<Tensor> list) {
  for (Tensor& t : list) {
    if (t.defined() && t.bytes() > 0) {
      bytes_ += t.bytes();
      list_.push_back(std::move(t));
    }
  }
  in_place_ = list_.size() == 1 && is_host(list_[0]) && list_[0].is_contiguous();
  buffer_ = in_place_ ? list_[0] : Tensor::empty({bytes_}, DType::kU8);
}

void HostMessage::pack() {
  if (in_place_) {
    return;
  }
  auto* to = static_cast<std::byte*>(buffer_.raw());
  for (const Tensor& t : list_) {
    const Tensor host = t.to(cpu()).contiguous();
    std::memcpy(to, host.raw(), static_cast<std::size_t>(t.bytes()));
    to += t.bytes();
  }
}

void HostMessage::unpack() {
  unpack(std::as_const(buffer_).raw());
}

void HostMessage::unpack(const void* bytes) {
  const auto* from = static_cast<const std::byte*>(bytes);
  for (Tensor& t : list_) {
    if (!in_place_) {
      Tensor host = Tensor::empty(t.shape(), t.dtype());
      std::memcpy(host.raw(), from, static_cast<std::size_t>(t.bytes()));
      t.copy_(host.to(t.device()));
      from += t.bytes();
    } else if (from != static_cast<const std::byte*>(t.raw())) {
      std::memcpy(t.raw(), from, static_cast<std::size_t>(t.bytes()));
    }
    t.bump_version();
  }
}

}  // namespace ls
