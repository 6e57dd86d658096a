#pragma once
// Update rules: each is one small file in optim/rules.
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/config/component.h"
#include "core/tensor/tensor.h"
#include "optim/device_step.h"

namespace ls::optim {

/// What a rule sees of one parameter (or of one slice of it, for elementwise rules).
struct ParamSlice {
  Tensor value;  ///< f32 or f64, contiguous; changed in place
  Tensor grad;   ///< same shape and type
  bool decay = true;
};

struct StepArgs {
  double lr = 0;
  Index step = 1;         ///< 1 for the first update
  double grad_scale = 1;  ///< gradients are multiplied by this first (clipping, accumulation)
};

/// An update rule. State tensors are zero before the first step; the trainer keeps and saves them.
class Optimizer {
 public:
  using Registry = ComponentRegistry<Optimizer>;
  static Registry& registry();
  virtual ~Optimizer() = default;
  /// Names of the state tensors kept for each parameter, each of its shape: {"m", "v"}.
  virtual std::vector<std::string> state_names() const = 0;
  virtual void update(ParamSlice& param, std::span<Tensor> state, const StepArgs& args) const = 0;
  /// For devices that run no code of the processor.
  virtual RuleNumbers numbers() const { return {}; }
};

}  // namespace ls::optim
