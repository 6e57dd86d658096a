#pragma once
// What lets a reference read like its equation: tensors of any rank are indexed by row and channel,
// absent operands are zero, and every input has a gradient to add to.
#include <algorithm>

#include "core/op/op.h"
#include "core/tensor/view.h"

namespace ls::ops::common {

/// A tensor with its leading axes joined to one, so that N are left: all elements (1), rows of the
/// last axis (2), a stack of matrices (3). Empty (false) of an undefined tensor. Of an input that
/// lies otherwise in memory it holds a copy.
template <class T, int N>
class Joined : public View<T, N> {
 public:
  explicit Joined(const Tensor& t) requires std::is_const_v<T>
      : Joined(t.defined() ? t.contiguous() : t, Packed()) {}
  explicit Joined(Tensor& t) requires(!std::is_const_v<T>) : View<T, N>(joined(t)) {}

 private:
  struct Packed {};
  Joined(const Tensor& t, Packed) : View<T, N>(joined(t)), packed_(t) {}
  template <class AnyTensor>
  static View<T, N> joined(AnyTensor& t) {
    if (!t.defined()) {
      return {};
    }
    std::array<Index, N> extents;
    extents.fill(1);
    for (int axis = 0; axis < t.rank(); ++axis) {
      extents[std::max(0, axis - t.rank() + N)] *= t.size(axis);
    }
    return {t.template data<std::remove_const_t<T>>(), extents};
  }
  Tensor packed_;
};

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
