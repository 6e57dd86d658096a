#pragma once
// Decayed linear attention on sm_90a: a scalar gate (core/ops/common/scalar_gate_scan.h), the
// passes of its backward, and a gate for each key channel.
#include "core/ops/common/scalar_gate_scan.h"

namespace ls::kernels::decayed_linear {

// The passes of backward, for timing: states of every chunk and their gradients; gradients.
cudaError_t decayed_linear_states(const LinearSizes& sizes, const LinearInputs& in,
                                  const __nv_bfloat16* go, const float* gs_end, void* workspace,
                                  float* ds0, cudaStream_t stream);
cudaError_t decayed_linear_gradients(const LinearSizes& sizes, const LinearInputs& in,
                                     const __nv_bfloat16* go, const void* workspace,
                                     const LinearGradients& out, cudaStream_t stream);

// The same with a gate for each key channel: S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T, g
// [B,T,H,Dk] f32. Within a chunk a decay below exp(-8.5) a token is taken for exp(-8.5).
struct ChannelInputs {
  const __nv_bfloat16 *q, *k, *v;
  const float* g;
  const float* s0;  // or null: zero
  const std::int64_t* offsets = nullptr;
};
int channel_linear_segments(const LinearSizes& sizes, int processors);
std::size_t channel_linear_forward_workspace(const LinearSizes& sizes, int segments);
cudaError_t channel_linear_forward(const LinearSizes& sizes, int segments, const ChannelInputs& in,
                                   __nv_bfloat16* o, float* s_end, void* workspace,
                                   cudaStream_t stream);
std::size_t channel_linear_backward_workspace(const LinearSizes& sizes);
/// Gradient of g [B,T,H,Dk], not null.
cudaError_t channel_linear_backward(const LinearSizes& sizes, const ChannelInputs& in,
                                    const __nv_bfloat16* go, const float* gs_end, void* workspace,
                                    const LinearGradients& out, cudaStream_t stream);
cudaError_t channel_linear_states(const LinearSizes& sizes, const ChannelInputs& in,
                                  const __nv_bfloat16* go, const float* gs_end, void* workspace,
                                  float* ds0, cudaStream_t stream);
cudaError_t channel_linear_gradients(const LinearSizes& sizes, const ChannelInputs& in,
                                     const __nv_bfloat16* go, const void* workspace,
                                     const LinearGradients& out, cudaStream_t stream);

/// The bonus u [UH,Dk], UH a divisor of H: o_t += scale (q_t . (u k_t)) v_t, with heads of queries
/// and keys as of values and Dv at most 128.
struct Bonus {
  const float* u;
  int heads;
};
cudaError_t add_bonus(const LinearSizes& sizes, const ChannelInputs& in, const Bonus& bonus,
                      __nv_bfloat16* o, cudaStream_t stream);
std::size_t bonus_workspace(const LinearSizes& sizes);
/// Adds its parts of the gradients of q, k, v; du, or null.
cudaError_t add_bonus_gradients(const LinearSizes& sizes, const ChannelInputs& in,
                                const Bonus& bonus, const __nv_bfloat16* go, void* workspace,
                                const LinearGradients& out, float* du, cudaStream_t stream);

}  // namespace ls::kernels::decayed_linear
