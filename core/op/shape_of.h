#pragma once
// ShapeOf: an operand without its elements. Checks, costs and choices of kernels see no more.
#include "core/tensor/layout.h"

namespace ls {

/// Has the methods of Tensor that need no element. Default: an absent operand.
class ShapeOf : public LaidOut<ShapeOf> {
 public:
  ShapeOf() = default;
  ShapeOf(const Shape& shape, DType dtype) : LaidOut(Layout(shape, dtype)), defined_(true) {}
  /// Of a tensor or a view.
  template <class T>
  explicit ShapeOf(const LaidOut<T>& t)
      : LaidOut(t.layout()), defined_(static_cast<const T&>(t).defined()) {}

  bool defined() const { return defined_; }

 private:
  bool defined_ = false;
};

}  // namespace ls
