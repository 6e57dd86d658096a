#pragma once
// Tensors seen as rows of their last axis, for kernels that work row by row.
#include <algorithm>
#include <optional>

#include "core/base/error.h"
#include "core/tensor/tensor_view.h"

namespace ls {

/// Asks for n elements to be in cache soon.
template <class T>
inline void prefetch(const T* p, Index n) {
  for (Index i = 0; i < n; i += 64 / Index{sizeof(T)}) {
    __builtin_prefetch(p + i);
  }
}

/// Rows of the last axis: without gaps, `stride` elements apart.
struct RowPattern {
  Index count = 0, cols = 0, stride = 0;
};
/// Nothing where the last axis has gaps or the rows are not equally far apart.
inline std::optional<RowPattern> rows_of(const Layout& t) {
  RowPattern r;
  r.cols = t.rank() > 0 ? t.shape().back() : 1;
  r.count = r.cols > 0 ? t.numel() / r.cols : 0;
  r.stride = r.cols;
  if (t.is_contiguous()) {
    return r;
  }
  if (t.strides().back() != 1 && r.cols != 1) {
    return std::nullopt;
  }
  Index step = -1;  // of the next axis that is not 1; a stride of 0 is one
  for (int a = t.rank() - 2; a >= 0; --a) {
    if (t.shape()[a] == 1) {
      continue;
    }
    if (step < 0) {
      r.stride = t.strides()[a];
      step = r.stride * t.shape()[a];
    } else if (t.strides()[a] != step) {
      return std::nullopt;
    } else {
      step *= t.shape()[a];
    }
  }
  return r;
}

/// Rows of an operand, as kernels that accept lies::rows get it. Slices of a wider tensor (pieces
/// of a projection) are such rows without a copy.
class Rows : public RowPattern {
 public:
  explicit Rows(const TensorView& t) : base_(t.raw()) {
    const std::optional<RowPattern> rows = rows_of(t.layout());
    LS_CHECK(rows, kInternal, "an operand {} with strides {} is not made of rows", t.describe(),
             t.strides().str());
    static_cast<RowPattern&>(*this) = *rows;
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

 private:
  const void* base_ = nullptr;
};

/// A stack of matrices as matrix libraries read it, `step` elements apart. `transposed`: what is
/// stored is the transpose of the tensor's.
struct StackPattern {
  Index ld = 1, step = 0;
  bool transposed = false;
};
/// Nothing where the last two axes are no rows or columns of a matrix, or the matrices do not lie
/// at one step.
inline std::optional<StackPattern> stack_of(const Layout& t) {
  const int r = t.rank();
  const Index rows = t.shape()[r - 2], cols = t.shape()[r - 1];
  const Index down = t.strides()[r - 2], along = t.strides()[r - 1];
  const auto fits = [](Index step, Index unit, Index n, Index m) {  // n rows of m elements
    return (unit == 1 || m <= 1) && (step >= m || n <= 1);
  };
  StackPattern s;
  if (fits(down, along, rows, cols)) {
    s.ld = rows <= 1 ? cols : down;
  } else if (fits(along, down, cols, rows)) {
    s.transposed = true;
    s.ld = cols <= 1 ? rows : along;
  } else {
    return std::nullopt;
  }
  s.ld = std::max<Index>(1, s.ld);
  Index next = -1;
  for (int axis = r - 3; axis >= 0; --axis) {
    if (t.shape()[axis] == 1) {
      continue;
    }
    if (next < 0) {
      s.step = t.strides()[axis];
    } else if (t.strides()[axis] != next) {
      return std::nullopt;
    }
    next = t.strides()[axis] * t.shape()[axis];
  }
  return s;
}

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
