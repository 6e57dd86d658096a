#pragma once
// Shape: up to kMaxRank extents or strides, held inline. Free of packages: device code includes it.
#include <algorithm>
#include <array>
#include <initializer_list>
#include <span>
#include <string>

#include "core/base/types.h"

namespace ls {

namespace detail {
// Each throws Error(Shape).
[[noreturn]] void fail_rank();
[[noreturn]] void fail_back();
[[noreturn]] void fail_count();
}  // namespace detail

inline constexpr int kMaxRank = 8;

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<Index> dims)
      : Shape(std::span<const Index>(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const Index> dims) {
    for (const Index d : dims) {
      push_back(d);
    }
  }

  int rank() const { return rank_; }
  bool empty() const { return rank_ == 0; }
  Index operator[](int i) const { return dims_[static_cast<std::size_t>(i)]; }
  Index& operator[](int i) { return dims_[static_cast<std::size_t>(i)]; }
  const Index* begin() const { return dims_.data(); }
  const Index* end() const { return dims_.data() + rank_; }
  /// @throws Error(Shape) of rank 0
  Index back() const {
    if (rank_ == 0) {
      detail::fail_back();
    }
    return dims_[static_cast<std::size_t>(rank_ - 1)];
  }
  void push_back(Index d) {
    if (rank_ >= kMaxRank) {
      detail::fail_rank();
    }
    dims_[static_cast<std::size_t>(rank_++)] = d;
  }
  /// @throws Error(Shape) beyond 64 bits, as contiguous_strides
  Index numel() const {
    Index n = 1;
    for (const Index d : *this) {
      n = product(n, d);
    }
    return n;
  }
  /// Row-major strides, in elements.
  Shape contiguous_strides() const {
    Shape s = *this;
    Index step = 1;
    for (int i = rank_ - 1; i >= 0; --i) {
      s[i] = step;
      step = i > 0 ? product(step, (*this)[i]) : step;
    }
    return s;
  }
  /// "[2, 3, 4]".
  std::string str() const {
    std::string out = "[";
    for (int i = 0; i < rank_; ++i) {
      out += (i ? ", " : "") + std::to_string((*this)[i]);
    }
    return out + "]";
  }
  friend bool operator==(const Shape& a, const Shape& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }

 private:
  static Index product(Index a, Index b) {
    Index p = 0;
    if (__builtin_mul_overflow(a, b, &p)) {
      detail::fail_count();
    }
    return p;
  }

  std::array<Index, kMaxRank> dims_{};
  int rank_ = 0;
};

}  // namespace ls
