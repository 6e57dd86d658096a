#pragma once
// What every piece of work on a device gets: where it runs and what it may use there.
#include <span>

#include "core/tensor/device.h"
#include "core/tensor/error_flag.h"
#include "core/tensor/tensor_view.h"

namespace ls {

class Tensor;

struct ExecutionContext {
  Device& device;
  Stream& stream;
  void* workspace = nullptr;  ///< of the stream's kernels, not to be kept between them
  Index workspace_bytes = 0;
  ErrorFlag* error_flag = nullptr;  ///< in the device's memory
};

/// Of the stream that this thread uses.
ExecutionContext current_context(Device& device);

/// `view` at the address that kernels get.
TensorView kernel_view(const Device& device, const TensorView& view);
/// All memory from a view's first to its last element.
Access access_of(const TensorView& view, bool write);

/// Before work on ctx.stream: what it uses lies on ctx.device. Undefined tensors are skipped.
/// @throws Error(Device) naming `what`
void check_uses(const ExecutionContext& ctx, std::string_view what,
                std::span<const Tensor* const> used);
/// After it: the memory stays until the work is done, and a graph knows what it uses.
void record_uses(const ExecutionContext& ctx, std::span<const Tensor* const> read,
                 std::span<const Tensor* const> written);

/// The number by which kernels raise errors of `what`, for instance "embedding: ids". From 1.
std::int32_t error_source(std::string_view what);
/// The host waits for the stream; then the flag is lowered.
/// @throws Error(Numeric) where a kernel of the stream has raised it: source, position and value
void check_error_flag(Stream& stream);

}  // namespace ls
