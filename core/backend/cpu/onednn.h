#pragma once
// Matrix products by oneDNN, where the build has it.
#include "core/base/types.h"

namespace ls {

/// C = op(A) op(B) + beta C with the meaning of `gemm` (core/backend/cpu/gemm.h), alpha = 1, every
/// size at least 1, C of type `ab` or f32. False, with nothing done, where oneDNN is not in the
/// build or has no fast kernel for these types on this processor.
bool onednn_gemm(DType ab, DType c_dtype, bool trans_a, bool trans_b, Index m, Index n, Index k,
                 const void* a, Index lda, const void* b, Index ldb, double beta, void* c,
                 Index ldc);

}  // namespace ls
