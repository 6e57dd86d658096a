#pragma once
// Matrix products of tiles on the calling thread, for use inside scan and attention kernels.
#include "core/base/types.h"

namespace ls {

/// C = alpha * op(A) * op(B) + beta * C on this thread; op(A) is [m,k], op(B) [k,n], C [m,n].
/// TA: A is stored [k,m]; TB: B is stored [n,k]. All row-major, ld* = elements between rows, at
/// least the row length. Any m, n, k >= 0; k = 0 leaves beta * C. beta = 0 does not read C. C
/// overlaps neither A nor B.
/// @dtype  T float, double, or bf16 (C, alpha, beta float; sums in float)
/// @cost   about 2*m*n*k flop; no allocation once the thread's buffers have grown to the sizes
///         used. Fastest when n is a multiple of 16 (8 for double) and B is not transposed.
template <bool TA, bool TB, class T>
void small_gemm(Index m, Index n, Index k, acc_t<T> alpha, const T* a, Index lda, const T* b,
                Index ldb, acc_t<T> beta, acc_t<T>* c, Index ldc);

}  // namespace ls
