#pragma once
// Decayed linear attention on sm_90a, bf16 with f32 sums, states and gates; plain pointers.
//   S_t = exp(g_t) S_{t-1} + k_t v_t^T,  o_t = scale q_t S_t
// q, k [B,T,H,128]  v, o [B,T,H,128]  states [B,H,128,128] f32. The gate is a scalar a token and
// head, g [B,T,H] f32, or a constant of the head, decay [H] f32, or neither (no decay).
// Nothing is allocated and nothing synchronises; results are the same bits every time.
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>

namespace ls::kernels::decayed_linear {

struct LinearSizes {
  int batch, tokens, heads;
  float scale;
  static constexpr int kDk = 128;
  static constexpr int kDv = 128;
  static constexpr int kChunk = 64;
  bool valid() const { return batch > 0 && tokens > 0 && heads > 0; }
  int chains() const { return batch * heads; }
  int chunks() const { return (tokens + kChunk - 1) / kChunk; }
  std::size_t records() const {
    return static_cast<std::size_t>(chains()) * static_cast<std::size_t>(chunks());
  }
};

struct LinearInputs {
  const __nv_bfloat16 *q, *k, *v;
  const float* g;      // or null
  const float* decay;  // or null; not with g
  const float* s0;     // or null: zero
};

/// How forward is laid out: value groups of 64 columns a CTA, segments of a sequence.
struct LinearPlan {
  int groups, segments;
};
/// From the sizes and the number of multiprocessors alone.
LinearPlan decayed_linear_plan(const LinearSizes& sizes, int processors);

std::size_t decayed_linear_forward_workspace(const LinearSizes& sizes, const LinearPlan& plan);
/// o and s_end (or null).
cudaError_t decayed_linear_forward(const LinearSizes& sizes, const LinearPlan& plan,
                                   const LinearInputs& in, __nv_bfloat16* o, float* s_end,
                                   void* workspace, cudaStream_t stream);

struct LinearGradients {
  __nv_bfloat16 *q, *k, *v;
  float* g;   // or null
  float* s0;  // or null
};
std::size_t decayed_linear_backward_workspace(const LinearSizes& sizes);
/// go [B,T,H,128]; gs_end: gradient of the last state, or null: zero.
cudaError_t decayed_linear_backward(const LinearSizes& sizes, const LinearInputs& in,
                                    const __nv_bfloat16* go, const float* gs_end, void* workspace,
                                    const LinearGradients& out, cudaStream_t stream);

// The passes of backward, for timing: states of every chunk and their gradients; gradients.
cudaError_t decayed_linear_states(const LinearSizes& sizes, const LinearInputs& in,
                                  const __nv_bfloat16* go, const float* gs_end, void* workspace,
                                  float* ds0, cudaStream_t stream);
cudaError_t decayed_linear_gradients(const LinearSizes& sizes, const LinearInputs& in,
                                     const __nv_bfloat16* go, const void* workspace,
                                     const LinearGradients& out, cudaStream_t stream);

// The same with a gate for each key channel: S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T, g
// [B,T,H,128] f32. Within a chunk a decay below exp(-8.5) a token is taken for exp(-8.5).
struct ChannelInputs {
  const __nv_bfloat16 *q, *k, *v;
  const float* g;
  const float* s0;  // or null: zero
};
int channel_linear_segments(const LinearSizes& sizes, int processors);
std::size_t channel_linear_forward_workspace(const LinearSizes& sizes, int segments);
cudaError_t channel_linear_forward(const LinearSizes& sizes, int segments, const ChannelInputs& in,
                                   __nv_bfloat16* o, float* s_end, void* workspace,
                                   cudaStream_t stream);
std::size_t channel_linear_backward_workspace(const LinearSizes& sizes);
/// Gradient of g [B,T,H,128], not null.
cudaError_t channel_linear_backward(const LinearSizes& sizes, const ChannelInputs& in,
                                    const __nv_bfloat16* go, const float* gs_end, void* workspace,
                                    const LinearGradients& out, cudaStream_t stream);
cudaError_t channel_linear_states(const LinearSizes& sizes, const ChannelInputs& in,
                                  const __nv_bfloat16* go, const float* gs_end, void* workspace,
                                  float* ds0, cudaStream_t stream);
cudaError_t channel_linear_gradients(const LinearSizes& sizes, const ChannelInputs& in,
                                     const __nv_bfloat16* go, const void* workspace,
                                     const LinearGradients& out, cudaStream_t stream);

}  // namespace ls::kernels::decayed_linear
