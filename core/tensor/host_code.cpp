#include "core/tensor/host_code.h"

#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/tensor/host_errors.h"

namespace ls {
namespace {

std::vector<const Tensor*> addresses(std::span<const Tensor> tensors) {
  std::vector<const Tensor*> out;
  out.reserve(tensors.size());
  for (const Tensor& t : tensors) {
    out.push_back(&t);
  }
  return out;
}

}  // namespace

void record_launch(const ExecutionContext& ctx, std::span<const Tensor> read,
                   std::span<const Tensor> written) {
  record_uses(ctx, addresses(read), addresses(written));
}

void launch_host_code(const ExecutionContext& ctx, std::string_view what,
                      std::span<const Tensor> read, std::span<Tensor> written, HostCode code) {
  check_uses(ctx, what, addresses(read));
  check_uses(ctx, what, addresses(written));
  if (ctx.device.type() == DeviceType::kCpu) {
    code(read, written);
    return;
  }
  LS_CHECK(ctx.device.properties().runs_host_code, kUnsupported, "{} has no kernel on {}", what,
           ctx.device.describe());
  std::vector<Access> uses;
  const auto borrowed = [&](std::span<const Tensor> tensors, bool write) {
    std::vector<Tensor> out;
    for (const Tensor& t : tensors) {
      out.push_back(Tensor::over(kernel_view(ctx.device, t)));
      if (t.defined()) {
        uses.push_back(access_of(t, write));
      }
    }
    return out;
  };
  auto inputs = borrowed(read, false), outputs = borrowed(written, true);
  const ErrorContext context{std::string(what)};
  auto* const flag = static_cast<ErrorFlag*>(ctx.device.kernel_address(ctx.error_flag));
  ctx.stream.launch(
      [code = std::move(code), inputs = std::move(inputs), outputs = std::move(outputs),
       flag]() mutable {
        const UseErrorFlag use(flag);
        code(inputs, outputs);
      },
      uses);
  record_launch(ctx, read, written);
}

}  // namespace ls
