#pragma once
// Tensors seen as rows of their last axis, for kernels that work row by row.
#include <algorithm>
#include <optional>
#include <utility>

#include "core/tensor/tensor.h"

namespace ls {

/// Asks for n elements to be in cache soon.
template <class T>
inline void prefetch(const T* p, Index n) {
  for (Index i = 0; i < n; i += 64 / Index{sizeof(T)}) {
    __builtin_prefetch(p + i);
  }
}

/// Rows of a tensor: the last axis is contiguous, rows lie `stride` elements apart. Slices of a
/// wider tensor (pieces of a projection) are such rows without a copy.
class Rows {
 public:
  /// `apart`: rows do not overlap either (matrix products); expanded ones are copied.
  explicit Rows(const Tensor& t, bool apart = false) : tensor_(t) {
    cols = t.rank() > 0 ? t.size(-1) : 1;
    count = cols > 0 ? t.numel() / cols : 0;
    stride = cols;
    base_ = t.raw();
    if (t.is_contiguous()) {
      return;
    }
    bool regular = t.stride(-1) == 1 || cols == 1;
    Index step = -1;  // of the next axis that is not 1; a stride of 0 is one
    for (int a = t.rank() - 2; a >= 0 && regular; --a) {
      if (t.size(a) == 1) {
        continue;
      }
      if (step < 0) {
        stride = t.stride(a);
        step = stride * t.size(a);
      } else {
        regular = t.stride(a) == step;
        step *= t.size(a);
      }
    }
    if (!regular || (apart && stride < cols)) {
      tensor_ = t.contiguous();
      base_ = std::as_const(tensor_).raw();
      stride = cols;
    }
  }
  /// Rows without gaps are one long row: then elementwise loops need not stop at its ends.
  void join() {
    cols *= count;
    stride = cols;
    count = 1;
  }
  bool dense() const { return stride == cols; }
  template <class T>
  const T* row(Index r) const {
    return static_cast<const T*>(base_) + r * stride;
  }
  /// Asks for row r, if there is one, to be in cache soon: rows with gaps between them are no
  /// stream that the processor would fetch ahead by itself.
  template <class T>
  void prefetch(Index r) const {
    if (r < count) {
      ls::prefetch(row<T>(r), cols);
    }
  }
  Index count = 0, cols = 0, stride = 0;

 private:
  Tensor tensor_;
  const void* base_ = nullptr;
};

/// Memory of a slice of a contiguous tensor: pieces of `length` elements, `stride` apart.
struct Pieces {
  Index length = 1, stride = 1;
};
/// Nothing where the tensor does not lie in memory like that, or a row of its last axis is not
/// within one piece.
inline std::optional<Pieces> pieces_of(const Layout& t) {
  Pieces p;
  Index step = 1;  // of the next axis, as far as it goes on in one piece or from piece to piece
  bool apart = false;
  for (int a = t.rank() - 1; a >= 0; --a) {
    const Index n = t.shape()[a];
    if (n == 1) {
      continue;
    }
    if (t.strides()[a] != step) {
      if (apart || a == t.rank() - 1 || t.strides()[a] < step) {
        return std::nullopt;
      }
      apart = true;
      p.stride = step = t.strides()[a];
    }
    p.length *= apart ? 1 : n;
    step *= n;
  }
  p.stride = apart ? p.stride : p.length;
  return p;
}
template <class S>
std::optional<Pieces> pieces_of(const LaidOut<S>& t) {
  return pieces_of(t.layout());
}

/// Rows of a result to be written, which may lie in pieces; an undefined one has none.
template <class T>
class RowsOut {
 public:
  template <class S>
  explicit RowsOut(LaidOut<S>& t) {
    if (!static_cast<const S&>(t).defined()) {
      return;
    }
    const std::optional<Pieces> p = pieces_of(t);
    LS_CHECK(p, kInternal, "a result {} with strides {} is not a slice", t.describe(),
             t.strides().str());
    base_ = t.template data<T>();
    cols_ = t.rank() > 0 ? t.size(-1) : 1;
    dense_ = p->stride == p->length;
    per_piece_ = dense_ ? 1 : std::max<Index>(1, p->length / std::max<Index>(1, cols_));
    stride_ = dense_ ? cols_ : p->stride;
  }
  bool defined() const { return base_ != nullptr; }
  bool dense() const { return dense_; }
  T* row(Index r) const {
    return per_piece_ == 1 ? base_ + r * stride_
                           : base_ + r / per_piece_ * stride_ + r % per_piece_ * cols_;
  }

 private:
  T* base_ = nullptr;
  Index cols_ = 0, stride_ = 0, per_piece_ = 1;
  bool dense_ = true;
};

}  // namespace ls
