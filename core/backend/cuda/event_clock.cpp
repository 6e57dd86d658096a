// Times of a GPU's queue by events, which graphs record with their work.
#include <cuda_runtime_api.h>

#include <vector>

#include "core/backend/cuda/launch.h"
#include "core/tensor/queue_clock.h"

namespace ls::cuda {
namespace {

class EventClock final : public profile::QueueClock {
 public:
  explicit EventClock(Device& device) : device_(device) {}
  ~EventClock() override {
    for (const cudaEvent_t event : events_) {
      cudaEventDestroy(event);
    }
  }
  int mark() override {
    Stream& stream = current_stream(device_);
    cudaEvent_t event = nullptr;
    check(cudaEventCreate(&event), "making an event");
    events_.push_back(event);
    check(cudaEventRecordWithFlags(
              event, static_cast<cudaStream_t>(stream.native()),
              stream.capturing() ? cudaEventRecordExternal : cudaEventRecordDefault),
          "recording an event");
    return static_cast<int>(events_.size()) - 1;
  }
  bool recording() const override { return current_stream(device_).capturing(); }
  double seconds(int from, int to) override {
    float ms = 0;
    check(cudaEventElapsedTime(&ms, events_[static_cast<std::size_t>(from)],
                               events_[static_cast<std::size_t>(to)]),
          "reading the time between two events");
    return ms * 1e-3;
  }

 private:
  Device& device_;
  std::vector<cudaEvent_t> events_;
};

const bool clock_set = [] {
  set_queue_clock(DeviceType::kCuda, [](Device& device) -> std::unique_ptr<profile::QueueClock> {
    return std::make_unique<EventClock>(device);
  });
  return true;
}();

}  // namespace
}  // namespace ls::cuda
