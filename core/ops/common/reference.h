#pragma once
// What lets a reference read like its equation: tensors of any rank are indexed by row and channel,
// absent operands are zero, and every input has a gradient to add to.
#include <algorithm>

#include "core/op/op.h"
#include "core/ops/common/elements.h"
#include "core/tensor/view.h"

namespace ls::ops::common {

/// A contiguous tensor with its leading axes joined to one, so that N are left: all elements (1),
/// rows of the last axis (2), a stack of matrices (3). Empty (false) of an undefined tensor.
template <class T, int N>
class Joined : public View<T, N> {
 public:
  template <class S>
  explicit Joined(const LaidOut<S>& t) requires std::is_const_v<T> : View<T, N>(joined(t)) {}
  template <class S>
  explicit Joined(LaidOut<S>& t) requires(!std::is_const_v<T>) : View<T, N>(joined(t)) {}

 private:
  template <class AnyTensor>
  static View<T, N> joined(AnyTensor& t) {
    auto* const base = elements<std::remove_const_t<T>>(t);
    if (!base) {
      return {};
    }
    std::array<Index, N> extents;
    extents.fill(1);
    for (int axis = 0; axis < t.rank(); ++axis) {
      extents[std::max(0, axis - t.rank() + N)] *= t.size(axis);
    }
    return {base, extents};
  }
};

/// The element, 0 where the operand is absent.
template <class T, int N, class... I>
std::remove_const_t<T> or_zero(const View<T, N>& x, I... at) {
  return x ? x(at...) : std::remove_const_t<T>(0);
}

/// Gradients of all inputs, an In<TensorView>.
template <class In>
struct Gradients : In {
  std::vector<Tensor> unwanted;  ///< that nobody reads
};
/// From zero: those of `din`, and of the other inputs that are there.
template <class In>
Gradients<In> zero_gradients(const In& in, const In& din) {
  Gradients<In> gradients{din, {}};
  const auto inputs = ls::detail::members<const TensorView>(in);
  const auto wanted = ls::detail::members<TensorView>(static_cast<In&>(gradients));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (wanted[i]->defined()) {
      zeroed(*wanted[i]);
    } else if (inputs[i]->defined()) {
      gradients.unwanted.push_back(Tensor::zeros(inputs[i]->shape(), inputs[i]->dtype()));
      *wanted[i] = gradients.unwanted.back();
    }
  }
  return gradients;
}

}  // namespace ls::ops::common
