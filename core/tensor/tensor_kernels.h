#pragma once
// The elementwise work behind Tensor's own methods, one table for each type of device.
#include "core/tensor/context.h"

namespace ls {

/// Views have the shapes and types that Tensor's methods checked, on ctx.device, with the addresses
/// that the host has. The work is put on ctx.stream.
struct TensorKernels {
  /// Converts where the types differ.
  void (*copy)(const ExecutionContext& ctx, TensorView to, const TensorView& from);
  void (*fill)(const ExecutionContext& ctx, TensorView to, double value);
  /// to += alpha * from, float types.
  void (*add)(const ExecutionContext& ctx, TensorView to, const TensorView& from, double alpha);
  void (*mul)(const ExecutionContext& ctx, TensorView to, double factor);
};

/// The processor's, on memory that the host may touch: other devices of host code use them too.
const TensorKernels& cpu_tensor_kernels();
/// @throws Error(Unsupported) where nobody has set them
const TensorKernels& tensor_kernels(DeviceType type);
/// Before the first tensor of that type of device; `kernels` must stay.
void set_tensor_kernels(DeviceType type, const TensorKernels& kernels);

}  // namespace ls
