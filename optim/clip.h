#pragma once
#include <span>

#include "core/tensor/tensor.h"

namespace ls::optim {

/// p-norm over all tensors together, accumulated in f64; p = infinity gives the largest magnitude.
/// Undefined tensors are skipped. Not finite as soon as one element is not.
double gradient_norm(std::span<const Tensor> grads, double p = 2);
/// Factor min(1, max_norm / (norm + 1e-6)) of clipping by norm.
double clip_factor(double norm, double max_norm);
/// Clips in place; returns the norm before.
double clip_grad_norm_(std::span<Tensor> grads, double max_norm, double p = 2);

}  // namespace ls::optim
