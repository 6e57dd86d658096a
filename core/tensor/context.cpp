#include "core/tensor/context.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <utility>

#include "core/base/error.h"
#include "core/tensor/graph.h"
#include "core/tensor/host_errors.h"
#include "core/tensor/tensor.h"
#include "core/tensor/tensor_kernels.h"

namespace ls {
namespace {

std::array<const TensorKernels*, kNumDeviceTypes>& kernel_tables() {
  static std::array<const TensorKernels*, kNumDeviceTypes> tables = {&cpu_tensor_kernels()};
  return tables;
}

thread_local ErrorFlag* raised_here = nullptr;

struct ErrorSources {
  std::mutex mutex;
  std::vector<std::string> names;
};
ErrorSources& error_sources() {
  static auto* const instance = new ErrorSources;
  return *instance;
}

std::string what_is_raised(const ErrorFlag& flag) {
  ErrorSources& sources = error_sources();
  const std::lock_guard lock(sources.mutex);
  return fmt::format("{}: the value {} at position {} is not allowed",
                     sources.names[static_cast<std::size_t>(flag.source - 1)], flag.value,
                     flag.position);
}

}  // namespace

const TensorKernels& tensor_kernels(DeviceType type) {
  const TensorKernels* const kernels = kernel_tables()[static_cast<std::size_t>(type)];
  LS_CHECK(kernels, kUnsupported, "this program has no tensor kernels for a {} device",
           enum_name(type));
  return *kernels;
}

void set_tensor_kernels(DeviceType type, const TensorKernels& kernels) {
  kernel_tables()[static_cast<std::size_t>(type)] = &kernels;
}

ExecutionContext current_context(Device& device) {
  Stream& stream = current_stream(device);
  return {device, stream, stream.workspace(), device.properties().workspace, stream.error_flag()};
}

TensorView kernel_view(const Device& device, const TensorView& view) {
  return view.defined()
             ? TensorView(device.kernel_address(view.buffer()), view.layout()).set_adds(view.adds())
             : view;
}

Access access_of(const TensorView& view, bool write) {
  Index last = 0;
  for (int a = 0; a < view.rank(); ++a) {
    last += std::max<Index>(0, view.shape()[a] - 1) * view.strides()[a];
  }
  const Index elements = view.numel() == 0 ? 0 : last + 1;
  return {view.raw(), elements * dtype_size(view.dtype()), write};
}

void check_uses(const ExecutionContext& ctx, std::string_view what,
                std::span<const Tensor* const> used) {
  for (const Tensor* t : used) {
    LS_CHECK(!t->defined() || &t->device() == &ctx.device, kDevice,
             "{}: a tensor {} lies on {}, another on {}; copy one of them there (Tensor::to)", what,
             t->describe(), t->device().describe(), ctx.device.describe());
  }
}

void record_uses(const ExecutionContext& ctx, std::span<const Tensor* const> read,
                 std::span<const Tensor* const> written) {
  if (ctx.device.type() == DeviceType::kCpu) {
    return;  // its work is done
  }
  const auto record = [&](std::span<const Tensor* const> tensors, bool write) {
    for (const Tensor* t : tensors) {
      if (!t->defined()) {
        continue;
      }
      if (const auto& capture = ctx.stream.current_capture()) {
        capture->note(t->storage(), write);
      }
      t->storage()->record_use(ctx.stream);
    }
  };
  record(read, false);
  record(written, true);
}

std::int32_t error_source(std::string_view what) {
  ErrorSources& sources = error_sources();
  const std::lock_guard lock(sources.mutex);
  const auto at = std::find(sources.names.begin(), sources.names.end(), what);
  const auto index = at - sources.names.begin();
  if (at == sources.names.end()) {
    sources.names.emplace_back(what);
  }
  return static_cast<std::int32_t>(index) + 1;
}

void check_error_flag(Stream& stream) {
  Device& device = stream.device();
  ErrorFlag flag;
  if (device.host_accessible()) {
    flag = *stream.error_flag();
  } else {
    const Storage host(sizeof(ErrorFlag), device.pinned(), stream);
    stream.copy(host.data(), stream.error_flag(), sizeof(ErrorFlag));
    stream.synchronize();
    flag = *static_cast<const ErrorFlag*>(host.data());
  }
  if (flag.source != 0) {
    stream.fill(stream.error_flag(), 0, sizeof(ErrorFlag));
    throw Error(ErrorKind::kNumeric,
                what_is_raised(flag) + " (found on " + stream.describe() + ")");
  }
}

void check_error_flag(const ErrorFlag& flag) {
  if (flag.source != 0) {
    throw Error(ErrorKind::kShape, what_is_raised(flag));
  }
}

UseErrorFlag::UseErrorFlag(ErrorFlag* flag) : before_(std::exchange(raised_here, flag)) {}
UseErrorFlag::~UseErrorFlag() {
  raised_here = before_;
}

ErrorFlag* current_error_flag() {
  return raised_here ? raised_here : current_stream(cpu()).error_flag();
}

}  // namespace ls
