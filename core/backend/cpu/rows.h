#pragma once
// Tensors seen as rows of their last axis, for kernels that work row by row.
#include "core/tensor.h"

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
    return static_cast<const T*>(tensor_.raw()) + r * stride;
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
};

}  // namespace ls
