#pragma once
// Code of the processor as a kernel of any device that runs such.
#include <functional>
#include <span>
#include <string_view>

#include "core/tensor/context.h"
#include "core/tensor/tensor.h"

namespace ls {

using HostCode = std::function<void(std::span<const Tensor> read, std::span<Tensor> written)>;

/// Puts it on ctx.stream: on the processor it runs now, on a device that runs such code later, on
/// tensors of the processor that lie where the kernels of the device find these. What is read and
/// written stands under `written`. Undefined tensors stay undefined.
/// @throws Error(Unsupported) on other devices
void launch_host_code(const ExecutionContext& ctx, std::string_view what,
                      std::span<const Tensor> read, std::span<Tensor> written, HostCode code);

/// As record_uses, of tensors that stand in one place.
void record_launch(const ExecutionContext& ctx, std::span<const Tensor> read,
                   std::span<const Tensor> written);

}  // namespace ls
