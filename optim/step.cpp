#include "optim/step.h"

#include <cmath>
#include <cstring>
#include <utility>

#include "core/base/profile.h"
#include "core/tensor/host_code.h"
#include "optim/clip.h"

namespace ls::optim {
namespace {

double& at(Tensor& values, StepValue which) {
  return values.data<double>()[static_cast<Index>(which)];
}

/// Mean loss and norm; false where there is nothing to update.
bool measure(std::span<const Tensor> grads, Tensor& values, bool norm_given) {
  at(values, StepValue::kSteps) += 1;
  const double loss_sum = std::exchange(at(values, StepValue::kLossSum), 0);
  const double labels = std::exchange(at(values, StepValue::kLabels), 0);
  at(values, StepValue::kCounted) = labels;
  if (labels == 0) {
    if (!std::isfinite(loss_sum)) {  // a raised error: what is carried must not be kept
      at(values, StepValue::kLoss) = loss_sum;
      at(values, StepValue::kStopped) = at(values, StepValue::kSteps);
    }
    return false;
  }
  const profile::Scope timed("gradient norm");
  const double scale = 1.0 / labels;
  const double loss = loss_sum * scale,
               norm = (norm_given ? at(values, StepValue::kNorm) : gradient_norm(grads)) * scale;
  at(values, StepValue::kLoss) = loss;
  at(values, StepValue::kNorm) = norm;
  if (!std::isfinite(loss) || !std::isfinite(norm)) {
    at(values, StepValue::kStopped) = at(values, StepValue::kSteps);
  }
  return at(values, StepValue::kStopped) == 0;
}

/// Parameters, gradients and states as kernels get them.
std::vector<UpdateSlice> slices_of(const UpdateTargets& targets) {
  std::vector<UpdateSlice> slices;
  for (std::size_t i = 0; i < targets.params.size(); ++i) {
    const ParamSlice& p = targets.params[i];
    UpdateSlice& s = slices.emplace_back(UpdateSlice{p.value, p.grad, {}, p.decay});
    for (std::size_t k = 0; i < targets.states.size() && k < targets.states[i].size(); ++k) {
      s.states[k] = targets.states[i][k];
    }
  }
  return slices;
}

}  // namespace

Tensor step_values(Device& device, Index updates) {
  Tensor values = Tensor::zeros({kStepValues}, DType::kF64);
  set_step_value(values, StepValue::kUpdates, static_cast<double>(updates));
  return values.to(device);
}

double step_value(const Tensor& values, StepValue which) {
  return values.data<double>()[static_cast<Index>(which)];
}

Tensor value_slot(const Tensor& values, StepValue which) {
  return values.select(0, static_cast<Index>(which));
}

void set_step_value(Tensor& values, StepValue which, double value) {
  at(values, which) = value;
}

void add_loss(Tensor& values, const Tensor& loss, const Tensor& labels) {
  const Tensor read[] = {loss, labels};
  const ExecutionContext ctx = current_context(values.device());
  if (const StepKernels* const kernels = step_kernels(values.device().type())) {
    kernels->add_loss(ctx, values, loss, labels);
    record_launch(ctx, read, {&values, 1});
    values.bump_version();
    return;
  }
  const auto* const flag = static_cast<const ErrorFlag*>(ctx.device.kernel_address(ctx.error_flag));
  launch_host_code(ctx, "add_loss", read, {&values, 1},
                   [flag](std::span<const Tensor> in, std::span<Tensor> out) {
                     at(out[0], StepValue::kLossSum) +=
                         flag->source == 0 ? in[0].item() : std::nan("");
                     at(out[0], StepValue::kLabels) += in[1].item();
                   });
  values.bump_version();
}

void update_all(const Optimizer& rule, UpdateTargets targets, Tensor& values, double clip,
                bool norm_given) {
  std::vector<Tensor> grads, written = {values};
  std::vector<bool> decays;
  for (const ParamSlice& p : targets.params) {
    grads.push_back(p.grad);
    written.push_back(p.value);
    decays.push_back(p.decay);
  }
  for (const std::vector<Tensor>& s : targets.states) {
    written.insert(written.end(), s.begin(), s.end());
  }
  if (const StepKernels* const kernels = step_kernels(values.device().type())) {
    LS_CHECK(!norm_given, kUnsupported, "an update on {} takes its own norm",
             values.device().describe());
    const ExecutionContext ctx = current_context(values.device());
    kernels->update_all(ctx, rule.numbers(), slices_of(targets), values, clip);
    record_launch(ctx, grads, written);
    for (Tensor& t : written) {
      t.bump_version();
    }
    return;
  }
  const auto update = [&rule, decays = std::move(decays), clip, norm_given](
                          std::span<const Tensor> in, std::span<Tensor> out) {
    Tensor& v = out[0];
    const double labels = at(v, StepValue::kLabels);
    if (at(v, StepValue::kStopped) != 0 || !measure(in, v, norm_given)) {
      return;
    }
    const profile::Scope timed("optimizer");
    const double factor = clip > 0 ? clip_factor(at(v, StepValue::kNorm), clip) : 1.0;
    const StepArgs args{.lr = at(v, StepValue::kRate),
                        .step = static_cast<Index>(at(v, StepValue::kUpdates)) + 1,
                        .grad_scale = 1.0 / labels * factor};
    const std::size_t n = in.size(), states = (out.size() - 1 - n) / std::max<std::size_t>(1, n);
    for (std::size_t i = 0; i < n; ++i) {
      ParamSlice slice{out[1 + i], in[i], decays[i]};
      rule.update(slice, out.subspan(1 + n + i * states, states), args);
    }
    at(v, StepValue::kUpdates) += 1;
  };
  launch_host_code(current_context(values.device()), "update of all parameters", grads, written,
                   update);
  for (std::size_t i = 0; values.device().type() != DeviceType::kCpu && i < written.size(); ++i) {
    written[i].bump_version();
  }
}

void put_squares(Tensor& values, std::span<const Tensor> grads) {
  launch_host_code(current_context(values.device()), "norm of shards", grads, {&values, 1},
                   [](std::span<const Tensor> in, std::span<Tensor> out) {
                     const double norm = gradient_norm(in);
                     at(out[0], StepValue::kNorm) = norm * norm;
                   });
  values.bump_version();
}

void take_root(Tensor& values) {
  launch_host_code(current_context(values.device()), "norm of all shards", {}, {&values, 1},
                   [](std::span<const Tensor>, std::span<Tensor> out) {
                     at(out[0], StepValue::kNorm) = std::sqrt(at(out[0], StepValue::kNorm));
                   });
  values.bump_version();
}

void copy_unless_stopped(std::span<Tensor> to, std::span<const Tensor> from, const Tensor& values) {
  const ExecutionContext ctx = current_context(values.device());
  const StepKernels* const kernels = step_kernels(values.device().type());
  for (std::size_t i = 0; i < to.size(); ++i) {
    const Tensor read[] = {values, from[i].contiguous()};
    LS_ASSERT(to[i].is_contiguous() && to[i].shape() == from[i].shape() &&
              to[i].dtype() == from[i].dtype());
    if (kernels) {
      kernels->copy_unless_stopped(ctx, to[i], read[1], values);
      record_launch(ctx, read, {&to[i], 1});
    } else {
      launch_host_code(ctx, "copy_unless_stopped", read, {&to[i], 1},
                       [](std::span<const Tensor> in, std::span<Tensor> out) {
                         if (step_value(in[0], StepValue::kStopped) == 0) {
                           std::memcpy(out[0].raw(), in[1].raw(),
                                       static_cast<std::size_t>(in[1].bytes()));
                         }
                       });
    }
    to[i].bump_version();
  }
}

}  // namespace ls::optim
