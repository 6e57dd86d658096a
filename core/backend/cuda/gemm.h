#pragma once
// Matrix products by cuBLASLt: f32 means f32 products and sums, unless TF32 is asked for
// (switches.h); 16-bit floats are summed in f32.
// The algorithm depends on sizes, types and alignment alone; a sum is split only where its parts
// are added in a fixed order.
#include "core/base/types.h"

namespace ls::cuda {

/// A row-major matrix, or a stack of them `step` elements apart. `transposed`: what is stored is
/// the transpose of what the product reads.
struct Matrix {
  const void* data = nullptr;
  Index ld = 1;
  bool transposed = false;
  Index step = 0;
};

struct Product {
  DType in = DType::kF32;   ///< of a and b
  DType out = DType::kF32;  ///< of c: that of a, or its acc type
  Index m = 0, n = 0, k = 0, count = 1;
  double alpha = 1, beta = 0;
};

/// c [m,n] = alpha a [m,k] b [k,n] + beta c, on the stream of the kernel that runs. c is row-major,
/// `ldc` apart, the matrices of a stack `step_c`.
void gemm(const Product& p, const Matrix& a, const Matrix& b, void* c, Index ldc, Index step_c = 0);

namespace detail {
/// The same by plain loops over tiles: where cuBLASLt has no algorithm.
void plain_gemm(const Product& p, const Matrix& a, const Matrix& b, void* c, Index ldc,
                Index step_c);
}  // namespace detail

}  // namespace ls::cuda
