#pragma once
// Gated delta rule on sm_90a, bf16 with f32 sums, states and gates; plain pointers.
//   S_t = exp(g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,  o_t = scale q_t S_t
// q, k [B,T,H,128]  v, o [B,T,H,Dv]  g [B,T,H] f32 or null  beta [B,T,H]  states [B,H,128,Dv] f32;
// Dv a multiple of 64. Nothing is allocated and nothing synchronises.
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>

namespace ls::kernels {

struct DeltaSizes {
  int batch, tokens, heads, dv;
  float scale;
  static constexpr int kDk = 128;
  static constexpr int kChunk = 64;
  int chunks() const { return (tokens + kChunk - 1) / kChunk; }
  std::size_t records() const {
    return static_cast<std::size_t>(batch) * static_cast<std::size_t>(heads) *
           static_cast<std::size_t>(chunks());
  }
  /// Scores and gates of every chunk: forward writes them, backward reads them.
  std::size_t kept_bytes() const { return records() * kKept; }
  /// States and X of every chunk: by forward when asked, else by backward into its workspace.
  std::size_t states_bytes() const { return records() * (state_bytes() + value_bytes()); }
  /// Backward's own: gradients of the states.
  std::size_t gradients_bytes() const { return records() * state_bytes(); }
  std::size_t state_bytes() const { return static_cast<std::size_t>(dv) * kDk * 2; }
  std::size_t value_bytes() const { return static_cast<std::size_t>(dv) * kChunk * 2; }
  static constexpr std::size_t kScore = kChunk * kChunk * 2;
  static constexpr std::size_t kGates = 4 * kChunk * 4;
  static constexpr std::size_t kKept = 2 * kScore + kGates;
};

struct DeltaInputs {
  const __nv_bfloat16 *q, *k, *v;
  const float* g;  // or null: no decay
  const __nv_bfloat16* beta;
  const float* s0;  // or null: zero
};

/// o and s_end (or null); `kept` always, `states` or null. Dv not a multiple of 64 is an invalid
/// value.
cudaError_t gated_delta_forward(const DeltaSizes& sizes, const DeltaInputs& in, __nv_bfloat16* o,
                                float* s_end, void* kept, void* states, cudaStream_t stream);

struct DeltaGradients {
  __nv_bfloat16 *q, *k, *v;
  float* g;  // or null
  __nv_bfloat16* beta;
  float* s0;  // or null
};

/// `states_ready`: forward left them in `states`; else they are made again there. gs_end, the
/// gradient of s_end, or null: zero.
cudaError_t gated_delta_backward(const DeltaSizes& sizes, const DeltaInputs& in,
                                 const __nv_bfloat16* go, const float* gs_end, const void* kept,
                                 void* states, bool states_ready, void* gradients,
                                 const DeltaGradients& out, cudaStream_t stream);

}  // namespace ls::kernels
