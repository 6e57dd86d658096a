#include "core/tensor/device.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/tensor/allocator.h"
#include "core/tensor/graph.h"
#include "core/tensor/use_memory.h"

namespace ls {
namespace {

thread_local std::vector<Stream*> streams_in_use;

}  // namespace

Event::Event(Stream& stream, std::shared_ptr<State> state)
    : stream_(&stream), state_(std::move(state)), capture_(stream.current_capture()) {}

void Event::synchronize() const {
  LS_CHECK(!capture_, kDevice, "the host waits for an event of {}, which a graph has recorded",
           stream_->describe());
  if (state_ && !state_->happened()) {
    stream_->device().count_host_wait();
    state_->wait_on_host();
  }
}

Stream::Stream(Device& device, int index) : device_(device), index_(index) {}

Stream::~Stream() = default;

std::string Stream::describe() const {
  return fmt::format("{} stream {}", device_.describe(), index_);
}

Allocator& Stream::allocator() const {
  if (capture_) {
    return *capture_->memory;
  }
  Allocator* const lent = UseMemory::of(device_);
  return lent ? *lent : device_.allocator();
}

Event Stream::record() {
  return Event(*this, do_record());
}

void Stream::wait(const Event& event) {
  if (!event.defined() || event.stream() == this) {
    return;
  }
  const std::shared_ptr<Capture>& other = event.capture();
  LS_CHECK(!other || !other->finished, kDevice,
           "{} waits for an event of {} that belongs to a finished graph", describe(),
           event.stream()->describe());
  LS_CHECK(other || !capture_, kDevice,
           "{} waits, while it is captured, for an event of {} from before", describe(),
           event.stream()->describe());
  LS_CHECK(!capture_ || capture_ == other, kDevice, "{} waits for an event of another capture",
           describe());
  if (other && !capture_) {
    capture_ = other;
    other->streams.push_back(this);
  }
  do_wait(event);
}

void Stream::synchronize() {
  LS_CHECK(!capture_, kDevice,
           "the host waits for {} while a graph is captured: nothing is done before its replay",
           describe());
  device_.count_host_wait();
  do_synchronize();
}

Device::Device(DeviceType type, int index, DeviceProperties properties)
    : type_(type), index_(index), properties_(std::move(properties)) {}

Device::~Device() = default;

void Device::equip(Stream& stream, void* data) {
  stream.error_flag_ = static_cast<ErrorFlag*>(data);
  stream.workspace_ = static_cast<char*>(data) + properties_.alignment;
  stream.fill(data, 0, properties_.alignment);
}

std::string Device::describe() const {
  return type_ == DeviceType::kCpu ? "cpu" : fmt::format("{}:{}", enum_name(type_), index_);
}

Stream& current_stream(Device& device) {
  for (auto s = streams_in_use.rbegin(); s != streams_in_use.rend(); ++s) {
    if (&(*s)->device() == &device) {
      return **s;
    }
  }
  return device.default_stream();
}

UseStream::UseStream(Stream& stream) {
  streams_in_use.push_back(&stream);
}
UseStream::~UseStream() {
  streams_in_use.pop_back();
}

}  // namespace ls
