// Backward of the gated delta rule: states (unless forward left them), reverse loop, gradients.
#include "core/ops/delta_rule/gated_delta_kernels.cuh"

namespace ls::kernels::gated_delta {

cudaError_t gated_delta_backward(const DeltaSizes& z, const DeltaInputs& in, const bf16* go,
                                 const float* gs_end, const void* kept, void* states,
                                 bool states_ready, void* gradients, const DeltaGradients& out,
                                 cudaStream_t stream) {
  if (!valid(z, in)) return cudaErrorInvalidValue;
  if (no_tokens(z)) return pass_state(z.state_elements(), gs_end, out.s0, stream);
  if (const cudaError_t e =
          gated_delta_reverse(z, in, go, gs_end, kept, states_ready ? nullptr : states, gradients,
                              out.v, out.s0, stream, out.v_steps)) {
    return e;
  }
  return gated_delta_gradients(z, in, go, kept, states, gradients, out, stream);
}

}  // namespace ls::kernels::gated_delta
