#pragma once
// What the reverse loops take (gated_delta_reverse.cu, gated_delta_wide_reverse.cu).
#include "core/ops/delta_rule/gated_delta_forward.cuh"

namespace ls::kernels::gated_delta {

struct ReverseArguments {
  const unsigned char* kept;
  Records records;  // gradients of the states
  const float* gs_end;
  float* gs0;
  bf16* dv_rows;
  RowSteps dv_steps;
  Layout layout;
  int dk, dv, slices;
  float scale;
};
inline ReverseArguments reverse_arguments(const DeltaSizes& z, const DeltaInputs& in,
                                          const float* gs_end, const void* kept, void* gradients,
                                          bf16* dv, const RowSteps& dv_steps, float* gs0) {
  return {static_cast<const unsigned char*>(kept),
          records_in(z, gradients),
          gs_end,
          gs0,
          dv,
          dv_steps.of(z.tokens, z.heads, z.dv),
          layout_of(z, in, kept),
          z.dk,
          z.dv,
          z.wide_dv() / 64,
          z.scale};
}

/// `again`: of the states, where its records are not null.
cudaError_t gated_delta_wide_reverse(const DeltaSizes& z, const CUtensorMap& q,
                                     const CUtensorMap& k, const CUtensorMap& v,
                                     const CUtensorMap& go, const CUtensorMap& dv,
                                     const ReverseArguments& args, const forward::Arguments& again,
                                     cudaStream_t stream);

}  // namespace ls::kernels::gated_delta
