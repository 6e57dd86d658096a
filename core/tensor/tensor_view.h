#pragma once
// TensorView: a tensor as kernels see it. Owns nothing; may point into memory of any device.
#include "core/tensor/layout.h"

namespace ls {

class TensorView : public LaidOut<TensorView> {
 public:
  TensorView() = default;
  /// `buffer` is where offset 0 of the layout lies.
  TensorView(void* buffer, const Layout& layout) : LaidOut(layout), buffer_(buffer) {}

  bool defined() const { return buffer_ != nullptr; }
  /// A place for a gradient that is added to what lies there (Tensor::adding).
  bool adds() const { return adds_; }
  TensorView& set_adds(bool adds) {
    adds_ = adds;
    return *this;
  }
  void* buffer() const { return buffer_; }
  const void* raw() const {
    return static_cast<const char*>(buffer_) + layout_.offset() * dtype_size(dtype());
  }
  void* raw() { return static_cast<char*>(buffer_) + layout_.offset() * dtype_size(dtype()); }

 private:
  void* buffer_ = nullptr;
  bool adds_ = false;
};

}  // namespace ls
