#pragma once
// What lets a reference read like its equation: absent operands are zero, and every input has a
// gradient to add to.
#include "core/op/op.h"
#include "core/tensor/view.h"

namespace ls::ops::common {

/// The element, 0 where the operand is absent.
template <class T, int N, class... I>
std::remove_const_t<T> or_zero(const View<T, N>& x, I... at) {
  return x ? x(at...) : std::remove_const_t<T>(0);
}

/// Gradients from zero: those of `din`, and for the other inputs tensors that nobody reads.
template <class In>
In zero_gradients(const In& in, const In& din) {
  In gradients = din;
  const auto inputs = ls::detail::members<const Tensor>(in);
  const auto wanted = ls::detail::members<Tensor>(gradients);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (wanted[i]->defined()) {
      wanted[i]->zero_();
    } else if (inputs[i]->defined()) {
      *wanted[i] = Tensor::zeros(inputs[i]->shape(), inputs[i]->dtype());
    }
  }
  return gradients;
}

}  // namespace ls::ops::common
