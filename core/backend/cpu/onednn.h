#pragma once
// Products in bf16 by the processor's matrix unit (AMX), through oneDNN.
#include "core/backend/cpu/packed_gemm.h"

namespace ls {

/// True where this machine has AMX for bf16 and the program was built with oneDNN.
bool has_matrix_unit();
/// C = op(A) op(B) + beta C, over the thread pool; false, and nothing done, where there is no such unit or
/// no kernel for these sizes. Pieces that the library gets depend on the sizes alone.
bool onednn_gemm(const Operands<bf16, float>& g);
bool onednn_gemm(const Operands<bf16, bf16>& g);

}  // namespace ls
