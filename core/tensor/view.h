#pragma once
// Elements by their indices, so that plain loops read like their equation:
//   s(i, c) += k(t, i) * v(t, c);
#include <array>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/tensor/tensor_view.h"

namespace ls {

/// N indices into memory of any strides. Empty (false) of an undefined tensor. Does not own.
template <class T, int N>
class View {
 public:
  View() = default;
  /// Row-major elements at `base`.
  View(T* base, const std::array<Index, N>& extents) : base_(base), extents_(extents) {
    Index step = 1;
    for (int i = N - 1; i >= 0; --i) {
      strides_[i] = step;
      step *= extents[i];
    }
  }
  /// @throws Error(Shape) when the tensor has another rank, Error(DType) another element type
  template <class S>
  explicit View(const LaidOut<S>& t) requires std::is_const_v<T> {
    if (static_cast<const S&>(t).defined()) {
      take(t.layout(), t.template data<std::remove_const_t<T>>());
    }
  }
  template <class S>
  explicit View(LaidOut<S>& t) requires(!std::is_const_v<T>) {
    if (static_cast<const S&>(t).defined()) {
      take(t.layout(), t.template data<T>());
    }
  }
  explicit operator bool() const { return base_ != nullptr; }
  Index size(int axis) const { return extents_[axis]; }
  template <class... I>
  T& operator()(I... at) const {
    static_assert(sizeof...(I) == N, "one index for each axis");
    Index offset = 0;
    int axis = 0;
    ((offset += static_cast<Index>(at) * strides_[axis++]), ...);
    return base_[offset];
  }

 private:
  void take(const Layout& t, T* base) {
    LS_CHECK(t.rank() == N, kShape, "a tensor of shape {} is indexed by {} axes", t.shape().str(),
             N);
    base_ = base;
    for (int i = 0; i < N; ++i) {
      extents_[i] = t.shape()[i];
      strides_[i] = t.strides()[i];
    }
  }
  T* base_ = nullptr;
  std::array<Index, N> extents_{}, strides_{};
};

/// An array of its own, zero at first, with signed sizes and N indices.
template <class T, int N = 1>
class Buffer {
 public:
  Buffer() = default;
  template <class... I>
  explicit Buffer(I... extents)
      : values_(static_cast<std::size_t>((Index{1} * ... * static_cast<Index>(extents)))),
        view_(values_.data(), {static_cast<Index>(extents)...}) {
    static_assert(sizeof...(I) == N, "one extent for each axis");
  }
  Buffer(Buffer&& other) noexcept = default;
  Buffer& operator=(Buffer&& other) noexcept = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  template <class... I>
  T& operator()(I... at) {
    return view_(at...);
  }
  template <class... I>
  const T& operator()(I... at) const {
    return view_(at...);
  }
  T& operator[](Index i) { return values_[static_cast<std::size_t>(i)]; }
  const T& operator[](Index i) const { return values_[static_cast<std::size_t>(i)]; }
  Index size() const { return std::ssize(values_); }
  T* data() { return values_.data(); }
  const T* data() const { return values_.data(); }
  auto begin() { return values_.begin(); }
  auto end() { return values_.end(); }

 private:
  std::vector<T> values_;
  View<T, N> view_;
};

}  // namespace ls
