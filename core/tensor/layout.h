#pragma once
// How the elements of a tensor lie: shape, strides and first element; and what tensors and views
// of them do with these alone. Free of packages, so that device code can include it.
#include <initializer_list>
#include <span>
#include <string>

#include "core/base/types.h"
#include "core/tensor/shape.h"

namespace ls {

/// Offset and strides are counted in elements. Methods give other layouts of the same memory.
class Layout {
 public:
  Layout() = default;
  /// Row-major. @throws Error(Shape) where 64 bits do not count the elements
  Layout(const Shape& shape, DType dtype);

  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }
  Index offset() const { return offset_; }
  DType dtype() const { return dtype_; }
  int rank() const { return shape_.rank(); }
  Index numel() const { return shape_.numel(); }
  bool is_contiguous() const;
  /// From 0. @throws Error(Shape) where there is no such axis
  int normalize_axis(int axis) const;
  /// @throws Error(DType) where it is another
  void check_dtype(DType wanted) const;

  /// @throws Error(Shape) where a copy would be needed
  Layout view(const Shape& shape) const;
  bool can_view(const Shape& shape) const;
  Layout permute(std::span<const int> axes) const;
  Layout transpose(int a, int b) const;
  Layout slice(int axis, Index begin, Index end) const;
  Layout select(int axis, Index index) const;
  Layout unsqueeze(int axis) const;
  Layout squeeze(int axis) const;
  Layout expand(const Shape& shape) const;
  /// The element `offset` behind the first, without axes.
  Layout at(Index offset) const;
  /// In a buffer of `capacity` elements; false where `extent` elements of the axis are not there
  /// or another slice lies among them.
  bool extend(int axis, Index extent, Index capacity);

 private:
  bool view_strides(const Shape& shape, Shape& strides) const;

  Index offset_ = 0;
  Shape shape_, strides_;
  DType dtype_ = DType::kF32;
};

/// Base of Tensor and TensorView, which say where memory begins (`raw`). Views (`permute`, `slice`,
/// ...) never copy; a const Self gives read-only data.
template <class Self>
class LaidOut {
 public:
  LaidOut() = default;
  const Layout& layout() const { return layout_; }
  const Shape& shape() const { return layout_.shape(); }
  const Shape& strides() const { return layout_.strides(); }
  DType dtype() const { return layout_.dtype(); }
  int rank() const { return layout_.rank(); }
  /// Extent of an axis; negative counts from the end.
  Index size(int axis) const { return shape()[layout_.normalize_axis(axis)]; }
  Index stride(int axis) const { return strides()[layout_.normalize_axis(axis)]; }
  Index numel() const { return layout_.numel(); }
  Index bytes() const { return numel() * dtype_size(dtype()); }
  bool is_contiguous() const { return layout_.is_contiguous(); }
  /// "f32[2, 3]".
  std::string describe() const {
    return self().defined() ? std::string(enum_name(dtype())) + shape().str() : "undefined";
  }

  /// @throws Error(DType) where T is not the element type
  template <class T>
  const T* data() const {
    layout_.check_dtype(dtype_of_v<T>);
    return static_cast<const T*>(self().raw());
  }
  template <class T>
  T* data() {
    layout_.check_dtype(dtype_of_v<T>);
    return static_cast<T*>(static_cast<Self&>(*this).raw());
  }

  /// Same elements, other shape; -1 infers one extent. @throws Error(Shape) where a copy would be
  /// needed
  Self view(const Shape& shape) const { return with(layout_.view(shape)); }
  Self permute(std::initializer_list<int> axes) const {
    return permute(std::span<const int>(axes.begin(), axes.size()));
  }
  Self permute(std::span<const int> axes) const { return with(layout_.permute(axes)); }
  Self transpose(int a, int b) const { return with(layout_.transpose(a, b)); }
  /// Elements [begin, end) of an axis.
  Self slice(int axis, Index begin, Index end) const {
    return with(layout_.slice(axis, begin, end));
  }
  /// One index of an axis; the axis goes away.
  Self select(int axis, Index index) const { return with(layout_.select(axis, index)); }
  Self unsqueeze(int axis) const { return with(layout_.unsqueeze(axis)); }
  Self squeeze(int axis) const { return with(layout_.squeeze(axis)); }
  /// Repeats axes of extent 1 by a zero stride.
  Self expand(const Shape& shape) const { return with(layout_.expand(shape)); }

 protected:
  explicit LaidOut(const Layout& layout) : layout_(layout) {}
  Self with(const Layout& layout) const {
    Self s = self();
    s.layout_ = layout;
    return s;
  }
  Layout layout_;

 private:
  const Self& self() const { return static_cast<const Self&>(*this); }
};

}  // namespace ls
