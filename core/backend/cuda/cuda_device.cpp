#include "core/backend/cuda/cuda_device.h"

#include <array>
#include <cstdlib>
#include <string_view>

#include "core/backend/cuda/launch.h"
#include "core/backend/cuda/probe.h"
#include "core/base/error.h"
#include "core/tensor/devices.h"

namespace ls::cuda {
namespace {

constexpr Index kWorkspace = Index{32} << 20;  // what cuBLASLt's products use on Hopper
constexpr int kLeastGeneration = 80;
constexpr int kMaxDevices = 64;

bool flag_set(const char* name) {
  const char* const value = std::getenv(name);
  return value && std::string_view(value) != "" && std::string_view(value) != "0";
}
bool waits_after_launch() {
  static const bool waits = flag_set("LONGSCAN_CUDA_SYNC");
  return waits;
}
/// New buffers are filled with bytes 0xff: NaN in every float type.
bool poisons() {
  static const bool poison = flag_set("LONGSCAN_CUDA_POISON");
  return poison;
}

thread_local int device_of_thread = -1;

class CudaEvent final : public Event::State {
 public:
  CudaEvent(CudaDevice& device, bool captured)
      : device_(device), captured_(captured), event_(device.events().take()) {}
  ~CudaEvent() override { device_.events().give_back(event_); }
  bool happened() const override {
    if (captured_) {
      return false;
    }
    device_.use();
    const cudaError_t result = cudaEventQuery(event_);
    if (result == cudaErrorNotReady) {
      static_cast<void>(cudaGetLastError());
      return false;
    }
    check(result, "asking for an event");
    return true;
  }
  void wait_on_host() override { check(cudaEventSynchronize(event_), "waiting for an event"); }
  cudaEvent_t get() const { return event_; }

 private:
  CudaDevice& device_;
  bool captured_;
  cudaEvent_t event_;
};

class CudaGraph final : public RecordedWork {
 public:
  explicit CudaGraph(cudaGraph_t graph) {
    const cudaError_t result = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check(result, "making a graph of recorded work");
  }
  ~CudaGraph() override { cudaGraphExecDestroy(executable_); }
  void replay(Stream& stream) override {
    check(cudaGraphLaunch(executable_, static_cast<cudaStream_t>(stream.native())),
          "replaying a graph");
    launched();
  }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace

class CudaStream final : public Stream {
 public:
  CudaStream(CudaDevice& device, int index) : Stream(device, index), owner_(device) {
    owner_.use();
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  }
  ~CudaStream() override { cudaStreamDestroy(stream_); }
  void* native() const override { return stream_; }

  void copy(void* to, const void* from, Index bytes) override {
    if (bytes > 0) {
      owner_.use();
      check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, stream_),
            "a copy");
    }
  }
  void fill(void* to, unsigned char value, Index bytes) override {
    if (bytes > 0) {
      owner_.use();
      check(cudaMemsetAsync(to, value, static_cast<std::size_t>(bytes), stream_), "a fill");
    }
  }
  void launch(std::function<void()> /*kernel*/, std::span<const Access> /*uses*/) override {
    LS_FAIL(kUnsupported, "{} runs no code of the processor", describe());
  }

 protected:
  std::shared_ptr<Event::State> do_record() override {
    owner_.use();
    auto event = std::make_shared<CudaEvent>(owner_, capturing());
    check(cudaEventRecord(event->get(), stream_), "recording an event");
    return event;
  }
  void do_wait(const Event& event) override {
    LS_CHECK(event.stream()->device().type() == DeviceType::kCuda, kUnsupported,
             "{} waits for an event of {}", describe(), event.stream()->describe());
    owner_.use();
    const auto& state = static_cast<const CudaEvent&>(*event.shared_state());
    check(cudaStreamWaitEvent(stream_, state.get(), 0), "waiting for another stream");
  }
  void do_synchronize() override {
    owner_.use();
    check(cudaStreamSynchronize(stream_), "waiting for a stream");
  }
  // Relaxed: memory may be asked for and events looked at meanwhile.
  void do_begin_capture() override {
    owner_.use();
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "recording a graph");
  }
  std::unique_ptr<RecordedWork> do_end_capture() override {
    cudaGraph_t graph = nullptr;
    const cudaError_t result = cudaStreamEndCapture(stream_, &graph);
    if (result == cudaErrorStreamCaptureUnjoined) {
      static_cast<void>(cudaGetLastError());
      LS_FAIL(kDevice,
              "a stream was captured into a graph of {} that does not wait for it at its end",
              describe());
    }
    check(result, "recording a graph");
    return std::make_unique<CudaGraph>(graph);
  }

 private:
  CudaDevice& owner_;
  cudaStream_t stream_ = nullptr;
};

// Errors and launches.

void check(cudaError_t result, const char* what) {
  if (result == cudaSuccess) {
    return;
  }
  static_cast<void>(cudaGetLastError());
  const std::string op = innermost_context();
  const bool asynchronous = result == cudaErrorIllegalAddress || result == cudaErrorLaunchFailure ||
                            result == cudaErrorMisalignedAddress || result == cudaErrorAssert ||
                            result == cudaErrorIllegalInstruction;
  LS_FAIL(kDevice, "{}{}: {} ({}){}", op.empty() ? "" : op + ": ", what, cudaGetErrorString(result),
          cudaGetErrorName(result),
          asynchronous && !waits_after_launch()
              ? "; a kernel that was launched before failed: LONGSCAN_CUDA_SYNC=1 in the "
                "environment waits after each one and names its op"
              : "");
}

Queue queue() {
  const ExecutionContext& ctx = RunningOn::context();
  LS_CHECK(ctx.device.type() == DeviceType::kCuda, kInternal, "a GPU kernel runs on {}",
           ctx.device.describe());
  static_cast<const CudaDevice&>(ctx.device).use();
  const DeviceProperties& p = ctx.device.properties();
  return {static_cast<cudaStream_t>(ctx.stream.native()), ctx.error_flag, p.processors,
          p.generation, p.shared_bytes};
}

void launched() {
  check(cudaGetLastError(), "launching a kernel");
  if (!waits_after_launch()) {
    return;
  }
  const ExecutionContext& ctx = RunningOn::context();
  if (!ctx.stream.capturing()) {
    check(cudaStreamSynchronize(static_cast<cudaStream_t>(ctx.stream.native())), "a kernel");
  }
}

Scratch::Scratch(Index bytes) : storage_(bytes, RunningOn::context().stream) {}

cudaEvent_t EventPool::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      const cudaEvent_t event = free_.back();
      free_.pop_back();
      return event;
    }
  }
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  return event;
}
void EventPool::give_back(cudaEvent_t event) {
  const std::lock_guard lock(mutex_);
  free_.push_back(event);
}

// The device.

CudaDevice::CudaDevice(int index, DeviceProperties properties)
    : Device(DeviceType::kCuda, index, std::move(properties)),
      memory_(std::make_shared<BlockPool>(*this, MemoryKind::kDevice)),
      pinned_(std::make_shared<BlockPool>(*this, MemoryKind::kPinned)) {
  new_stream();
}

CudaDevice::~CudaDevice() = default;

void CudaDevice::use() const {
  if (device_of_thread != index()) {
    check(cudaSetDevice(index()), "choosing a device");
    device_of_thread = index();
  }
}

Stream& CudaDevice::default_stream() {
  return *streams_.front();
}

Stream& CudaDevice::new_stream() {
  const std::lock_guard lock(mutex_);
  streams_.push_back(std::make_unique<CudaStream>(*this, static_cast<int>(streams_.size())));
  Stream& stream = *streams_.back();
  equip(stream, memory_->allocate(equipment_bytes(), stream).data);
  return stream;
}

void CudaDevice::synchronize() {
  const std::lock_guard lock(mutex_);
  for (const auto& stream : streams_) {
    stream->synchronize();
  }
}

void* CudaDevice::reserve(MemoryKind kind, Index bytes) {
  use();
  void* data = nullptr;
  const auto n = static_cast<std::size_t>(bytes);
  const cudaError_t result = kind == MemoryKind::kDevice
                                 ? cudaMalloc(&data, n)
                                 : cudaHostAlloc(&data, n, cudaHostAllocDefault);
  if (result == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    return nullptr;
  }
  check(result, kind == MemoryKind::kDevice ? "asking for memory" : "asking for pinned memory");
  return data;
}

void CudaDevice::release(MemoryKind kind, void* data, Index /*bytes*/) {
  use();
  check(kind == MemoryKind::kDevice ? cudaFree(data) : cudaFreeHost(data), "giving memory back");
}

void CudaDevice::note_allocated(const BlockPool& /*pool*/, void* data, Index bytes, Stream* home) {
  if (poisons() && home) {
    home->fill(data, 0xff, bytes);
  }
}

// Which devices there are.

int count_cuda_devices() {
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (result == cudaSuccess) {
    return count;
  }
  static_cast<void>(cudaGetLastError());
  int driver = 0, runtime = 0;
  static_cast<void>(cudaDriverGetVersion(&driver));
  static_cast<void>(cudaRuntimeGetVersion(&runtime));
  LS_CHECK(driver != 0, kDevice,
           "no driver of NVIDIA's is loaded on this machine: install one, or set device to cpu");
  LS_CHECK(result != cudaErrorInsufficientDriver, kDevice,
           "the driver is for CUDA {}.{}, this program needs {}.{}: install a newer driver, or set "
           "device to cpu",
           driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  LS_CHECK(result != cudaErrorNoDevice, kDevice,
           "the driver shows no GPU; look at nvidia-smi and CUDA_VISIBLE_DEVICES, or set device to "
           "cpu");
  LS_FAIL(kDevice, "the CUDA runtime does not start: {} ({})", cudaGetErrorString(result),
          cudaGetErrorName(result));
}

namespace {

DeviceProperties properties_of(int index) {
  cudaDeviceProp d{};
  check(cudaGetDeviceProperties(&d, index), "asking what a GPU is");
  DeviceProperties p;
  p.model = d.name;
  p.generation = d.major * 10 + d.minor;
  p.processors = d.multiProcessorCount;
  p.memory = static_cast<Index>(d.totalGlobalMem);
  p.alignment = 256;
  p.shared_bytes = static_cast<Index>(d.sharedMemPerBlockOptin);
  p.workspace = kWorkspace;
  LS_CHECK(p.generation >= kLeastGeneration, kDevice,
           "cuda:{} ({}) has compute capability {}.{}, this program needs {}.{} or later", index,
           p.model, d.major, d.minor, kLeastGeneration / 10, kLeastGeneration % 10);
  check(cudaSetDevice(index), "choosing a device");
  device_of_thread = index;
  const cudaError_t code = probe_kernels();
  if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorUnsupportedPtxVersion) {
    static_cast<void>(cudaGetLastError());
    LS_FAIL(
        kDevice,
        "this program has no code for cuda:{} ({}, compute capability {}.{}); configure it with "
        "-DLONGSCAN_CUDA_ARCHITECTURES={}-real",
        index, p.model, d.major, d.minor, p.generation);
  }
  check(code, "looking for code for the GPU");
  return p;
}

const bool kind_set = [] {
  set_device_kind(DeviceType::kCuda,
                  {.find = [](int index) -> Device& { return cuda_device(index); },
                   .count = &count_cuda_devices});
  return true;
}();

}  // namespace

CudaDevice& cuda_device(int index) {
  static std::mutex mutex;
  static auto* const devices = new std::array<CudaDevice*, kMaxDevices>{};  // outlive all tensors
  const std::lock_guard lock(mutex);
  const int count = count_cuda_devices();
  LS_CHECK(index >= 0 && index < count && index < kMaxDevices, kDevice,
           "there is no cuda:{}: this machine shows {} GPU{}", index, count, count == 1 ? "" : "s");
  CudaDevice*& device = (*devices)[static_cast<std::size_t>(index)];
  if (!device) {
    device = new CudaDevice(index, properties_of(index));
  }
  return *device;
}

}  // namespace ls::cuda
