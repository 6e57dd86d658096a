#pragma once
// Products of any size on the thread pool with the kernels of gemm_kernel.h.
#include "core/base/types.h"

namespace ls {

/// op(A) [m,k], op(B) [k,n], C [m,n], as in gemm().
template <class T, class C>
struct Operands {
  bool trans_a, trans_b;
  Index m, n, k;
  acc_t<T> alpha;
  const T* a;
  Index lda;
  const T* b;
  Index ldb;
  acc_t<T> beta;
  C* c;
  Index ldc;
};

/// C = alpha * op(A) * op(B) + beta * C over the thread pool, serial inside a parallel loop. The
/// order in which an element of C is summed depends on k and on whether m is below kFewRows, and on
/// nothing else: the same bits for any number of threads and wherever the element stands.
/// @dtype  A and B float, double, bf16 or f16; C the same or acc_t of it; sums in acc_t
template <class T, class C>
void packed_gemm(const Operands<T, C>& g);

/// Products of fewer rows read B where it lies.
inline constexpr Index kFewRows = 16;

}  // namespace ls
