#pragma once
// The step on devices that run no code of the processor: their kernels, and what these need of a
// rule. Free of packages but fmt, so that device code can include it.
#include <span>
#include <variant>
#include <vector>

#include "core/tensor/context.h"

namespace ls::optim {

struct AdamWNumbers {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01;
};
struct SgdNumbers {
  double momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false;
};
/// Of a rule without kernels elsewhere: none.
using RuleNumbers = std::variant<std::monostate, AdamWNumbers, SgdNumbers>;

/// One parameter of an update; `states` are null where the rule has fewer.
struct UpdateSlice {
  TensorView value, grad;
  TensorView states[2];
  bool decay = true;
};

struct StepKernels {
  /// As the functions of optim, on ctx.stream; `values` are kStepValues of f64.
  void (*add_loss)(const ExecutionContext& ctx, TensorView values, const TensorView& loss,
                   const TensorView& labels);
  void (*update_all)(const ExecutionContext& ctx, const RuleNumbers& rule,
                     std::span<const UpdateSlice> slices, TensorView values, double clip);
  /// Contiguous bytes, as optim::copy_unless_stopped.
  void (*copy_unless_stopped)(const ExecutionContext& ctx, const TensorView& to,
                              const TensorView& from, const TensorView& values);
};

/// Null where the device runs the processor's code.
const StepKernels* step_kernels(DeviceType type);
void set_step_kernels(DeviceType type, const StepKernels& kernels);

}  // namespace ls::optim
