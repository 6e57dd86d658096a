#pragma once
// Tensor: a strided view of shared storage, passed by value.
#include <memory>
#include <string>
#include <vector>

#include "core/tensor/shape.h"
#include "core/tensor/storage.h"

namespace ls {

/// Views (`permute`, `slice`, ...) share storage and never copy; a `const Tensor` gives read-only
/// data. In-place changes go through methods ending in `_` or through `data<T>()` followed by
/// `bump_version()`; both are seen by the tape's check of saved tensors.
class Tensor {
 public:
  Tensor() = default;

  static Tensor empty(const Shape& shape, DType dtype);
  static Tensor zeros(const Shape& shape, DType dtype);
  static Tensor full(const Shape& shape, DType dtype, double value);
  /// A rank-0 tensor.
  static Tensor scalar(double value, DType dtype = DType::kF32);
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape) {
    return from_raw(values.data(), static_cast<Index>(values.size()), shape, dtype_of_v<T>);
  }
  template <class T>
  static Tensor from(const std::vector<T>& values) {
    return from(values, Shape{static_cast<Index>(values.size())});
  }

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }
  int rank() const { return shape_.rank(); }
  /// Extent of an axis; negative counts from the end.
  Index size(int axis) const { return shape_[normalize_axis(axis)]; }
  Index stride(int axis) const { return strides_[normalize_axis(axis)]; }
  Index numel() const { return shape_.numel(); }
  Index bytes() const { return numel() * dtype_size(dtype_); }
  DType dtype() const { return dtype_; }
  bool is_contiguous() const;

  template <class T>
  const T* data() const {
    check_dtype(dtype_of_v<T>);
    return static_cast<const T*>(raw());
  }
  template <class T>
  T* data() {
    check_dtype(dtype_of_v<T>);
    return static_cast<T*>(raw());
  }
  const void* raw() const;
  void* raw();

  /// Same elements, other shape; -1 infers one extent. `view` throws Error(Shape) where a copy
  /// would be needed, `reshape` copies there.
  Tensor view(const Shape& shape) const;
  Tensor reshape(const Shape& shape) const;
  Tensor permute(std::initializer_list<int> axes) const;
  Tensor permute(std::span<const int> axes) const;
  Tensor transpose(int a, int b) const;
  /// Elements [begin, end) of an axis.
  Tensor slice(int axis, Index begin, Index end) const;
  /// The same elements and, behind them on an axis other than the first, as many more as make
  /// `extent`: what lies there in the storage. Undefined where another slice lies there, or
  /// nothing.
  Tensor extended(int axis, Index extent) const;
  /// One index of an axis; the axis goes away.
  Tensor select(int axis, Index index) const;
  Tensor unsqueeze(int axis) const;
  Tensor squeeze(int axis) const;
  /// Repeats axes of extent 1 by a zero stride.
  Tensor expand(const Shape& shape) const;

  /// Itself when already row-major, else a copy.
  Tensor contiguous() const;
  Tensor clone() const;
  /// Itself when already of that type, else a converted copy (contiguous).
  Tensor to(DType dtype) const;
  /// Copies from a tensor of the same shape, converting the element type.
  Tensor& copy_(const Tensor& source);
  Tensor& fill_(double value);
  Tensor& zero_() { return fill_(0.0); }
  /// this += alpha * other, same shape, float types.
  Tensor& add_(const Tensor& other, double alpha = 1.0);
  Tensor& mul_(double factor);

  /// The only element of a tensor with one element.
  double item() const;
  /// Element by row-major position, found and converted each time: for tests and messages.
  double slow_at(Index flat) const;
  template <class T>
  std::vector<T> to_vector() const {
    const Tensor c = to(dtype_of_v<T>).contiguous();
    return std::vector<T>(c.data<T>(), c.data<T>() + c.numel());
  }

  std::uint64_t version() const { return storage_ ? storage_->version() : 0; }
  void bump_version() { storage_->bump_version(); }
  /// How many handles share the storage; 1 allows changing it in place unseen.
  long storage_use_count() const { return storage_.use_count(); }
  bool shares_storage(const Tensor& other) const { return storage_ == other.storage_; }
  std::string describe() const;  ///< "f32[2, 3]"

 private:
  bool view_strides(const Shape& shape, Shape& strides) const;
  static Tensor from_raw(const void* values, Index count, const Shape& shape, DType dtype);
  int normalize_axis(int axis) const;
  void check_dtype(DType wanted) const;

  std::shared_ptr<Storage> storage_;
  Index offset_ = 0;  // elements
  Shape shape_, strides_;
  DType dtype_ = DType::kF32;
};

}  // namespace ls
