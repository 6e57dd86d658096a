#pragma once
// Matrix products on the CPU, on raw row-major memory.
#include <string_view>

#include "core/base/types.h"

namespace ls {

/// C = alpha * op(A) * op(B) + beta * C over the thread pool (serial inside a parallel loop).
/// op(A) is [m,k], op(B) [k,n], C [m,n]; `trans_a`: A is stored [k,m]; `trans_b`: B is stored
/// [n,k]. ld* = elements between rows, at least the row length. beta = 0 does not read C; k = 0
/// leaves beta * C. C overlaps neither A nor B. Callable from several threads at once.
/// @dtype  A and B both `ab`; C `ab`, or f32 where ab is bf16 or f16. Sums in f64 for f64, else in
///         f32
/// @throws Error(Shape) on a negative size or an ld shorter than the row, Error(DType)
void gemm(DType ab, DType c_dtype, bool trans_a, bool trans_b, Index m, Index n, Index k,
          double alpha, const void* a, Index lda, const void* b, Index ldb, double beta, void* c,
          Index ldc);

/// `batch` independent products; stride_* = elements from one matrix to the next, 0 to use the same
/// A or B for all. Many small products share out the batch over the threads, few large ones are
/// computed one after the other by all threads.
void gemm_batched(DType ab, DType c_dtype, bool trans_a, bool trans_b, Index batch, Index m,
                  Index n, Index k, double alpha, const void* a, Index lda, Index stride_a,
                  const void* b, Index ldb, Index stride_b, double beta, void* c, Index ldc,
                  Index stride_c);

template <class T, class C = T>
void gemm(bool trans_a, bool trans_b, Index m, Index n, Index k, double alpha, const T* a,
          Index lda, const T* b, Index ldb, double beta, C* c, Index ldc) {
  gemm(dtype_of_v<T>, dtype_of_v<C>, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c,
       ldc);
}

/// How this processor multiplies bf16: "by AMX", "by AVX512-BF16" or "widened to f32".
std::string_view bf16_products();

}  // namespace ls
