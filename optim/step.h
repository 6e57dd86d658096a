#pragma once
// One update of all parameters by one call, decided where they lie: the host need not know loss,
// norm or clip factor before it goes on.
#include <span>
#include <vector>

#include "optim/optimizer.h"

namespace ls::optim {

/// Numbers of a training step, f64 in one tensor on the device of the parameters.
enum class StepValue : std::uint8_t {
  kLossSum,  ///< in: over all labels of the update
  kLabels,   ///< in: how many there are; without any there is no update
  kRate,     ///< in: learning rate
  kLoss,     ///< out: mean over the labels
  kNorm,     ///< out: of the mean gradient, before clipping; in: see update_all
  kCounted,  ///< out: labels of the last call; 0: it made no update
  kUpdates,  ///< updates done, this one too when it is
  kSteps,    ///< calls, with those that made no update
  kStopped,  ///< 0, or the call (from 1) whose loss or norm was not finite: none changes anything
             ///< from then on, until the host sets it back
};
inline constexpr Index kStepValues = 9;

/// All zero. `updates`: done before.
Tensor step_values(Device& device, Index updates = 0);
/// Of values that the host may read.
double step_value(const Tensor& values, StepValue which);
/// One of them, for Tensor's methods where the values lie.
Tensor value_slot(const Tensor& values, StepValue which);
void set_step_value(Tensor& values, StepValue which, double value);

/// What is updated. Gradients are sums over labels, contiguous, of the parameters' types.
struct UpdateTargets {
  std::vector<ParamSlice> params;
  std::span<std::vector<Tensor>> states;  ///< of each parameter
};

/// Adds `loss` (one float), a sum over labels, to kLossSum and their number (f64) to kLabels.
/// Where a kernel of the stream has raised the error flag by now, kLossSum is NaN: so the update
/// stops on all ranks that share the sum.
void add_loss(Tensor& values, const Tensor& loss, const Tensor& labels);
/// Loss, norm, clip factor by `clip` (0: none) and the rule for every parameter; then kLossSum and
/// kLabels are 0 again. `rule` must stay as long as the device may run this. `norm_given`: kNorm is
/// that of the sums of gradients, those of other ranks' shards too.
void update_all(const Optimizer& rule, UpdateTargets targets, Tensor& values, double clip,
                bool norm_given = false);
/// kNorm of gradients that lie on several ranks, in two halves, between which it is summed over
/// them: the sum of squares of this rank's, then its root.
void put_squares(Tensor& values, std::span<const Tensor> grads);
void take_root(Tensor& values);
/// Each of `from` to its place in `to`, of the same shape and type and contiguous there, unless
/// kStopped is set: what steps carry on besides parameters.
void copy_unless_stopped(std::span<Tensor> to, std::span<const Tensor> from, const Tensor& values);

}  // namespace ls::optim
