#pragma once
// Products of bf16 on the processor's matrix unit (AMX).
#include "core/backend/cpu/packed_gemm.h"

namespace ls {

/// True where the processor has AMX for bf16 and the system lets this process use it.
bool has_matrix_unit();

/// packed_gemm() on the matrix unit, wanted only where has_matrix_unit(). The order in which an
/// element of C is summed depends on k and nothing else: the same bits for any number of threads.
void unit_gemm(const Operands<bf16, float>& g);
void unit_gemm(const Operands<bf16, bf16>& g);

}  // namespace ls
