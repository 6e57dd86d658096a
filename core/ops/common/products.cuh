#pragma once
// Products of rows with a weight [O,I], which linear and glu_linear share.
#include "core/backend/cuda/device/rows.cuh"
#include "core/backend/cuda/gemm.h"

namespace ls::ops {

/// Rows of an operand, also where they are empty.
inline Index row_count(const TensorView& t) {
  Index rows = 1;
  for (int axis = 0; axis + 1 < t.rank(); ++axis) {
    rows *= t.size(axis);
  }
  return rows;
}
/// Rows of an operand as a matrix; the distance of rows counts only where there are several.
inline cuda::Matrix row_matrix(const TensorView& t) {
  const RowPattern rows = *rows_of(t.layout());
  return {t.raw(), rows.count > 1 ? rows.stride : std::max<Index>(1, rows.cols), false, 0};
}
inline cuda::Matrix transposed(cuda::Matrix m) {
  m.transposed = !m.transposed;
  return m;
}
/// c [m,n] = a b, contiguous.
inline void multiply(DType in, const cuda::Matrix& a, const cuda::Matrix& b, Index m, Index n,
                     Index k, DType out, void* c, double beta = 0) {
  cuda::Product p;
  p.in = in;
  p.out = out;
  p.m = m;
  p.n = n;
  p.k = k;
  p.beta = beta;
  cuda::gemm(p, a, b, c, std::max<Index>(1, n));
}

}  // namespace ls::ops
