#pragma once
// Kimi Delta Attention on sm_90a, bf16 with f32 sums, states and gates; plain pointers.
//   S_t = (I - beta_t k_t k_t^T) diag(exp(g_t)) S_{t-1} + beta_t k_t v_t^T,  o_t = scale q_t S_t
// q, k [B,T,HK,128]  v, o [B,T,H,128]  g [B,T,H,128] f32  beta [B,T,H]  states [B,H,128,128] f32.
// HK divides H: consecutive heads share a query and a key. With `offsets` (then B is 1) documents
// are packed in the one row, begin and end anywhere and may be empty; states are those of the rows
// of state_tokens that it is made of.
// A decay below exp(-8.5) a token is taken for exp(-8.5). Nothing is allocated and nothing
// synchronises.
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/backend/cuda/row_steps.h"

namespace ls::kernels::kda {

struct KdaSizes {
  int batch, tokens, heads;
  float scale;
  int key_heads = 0;     // 0: heads
  int documents = 0;     // packed in the one row of the batch, or 0: rows are the sequences
  int state_tokens = 0;  // with documents: tokens of a row with states
  static constexpr int kDk = 128;
  static constexpr int kDv = 128;
  static constexpr int kChunk = 64;
  bool valid() const {
    return batch >= 0 && tokens >= 0 && heads >= 0 && (heads == 0 || heads % keys() == 0) &&
           (documents == 0 || (batch == 1 && state_tokens > 0));
  }
  int keys() const { return key_heads > 0 ? key_heads : heads; }
  int group() const { return heads / keys(); }
  int sequences() const { return documents > 0 ? documents : batch; }
  int chains() const { return sequences() * heads; }
  /// Of a row, or a bound of those of all its documents: document n's begin at offsets[n] / 64 + n.
  int chunks() const {
    return documents > 0 ? tokens / kChunk + documents : (tokens + kChunk - 1) / kChunk;
  }
  std::size_t records() const {
    return static_cast<std::size_t>(batch) * static_cast<std::size_t>(heads) *
           static_cast<std::size_t>(chunks());
  }
  std::size_t state_elements() const {
    return static_cast<std::size_t>(chains()) * static_cast<std::size_t>(kDk * kDv);
  }
  /// Operands of every chunk: prepare writes them, the loops read them.
  std::size_t kept_bytes() const { return records() * kKept + place_bytes(); }
  /// Behind the operands: where the chunks of documents lie.
  std::size_t place_bytes() const {
    return documents > 0 ? static_cast<std::size_t>(chunks()) * 8 : 0;
  }
  /// Backward's own: states before each chunk and X; gradients of the states after it.
  std::size_t states_bytes() const { return records() * (kState + kRows); }
  std::size_t gradients_bytes() const { return records() * kState + 2 * head_bytes(); }
  /// Gradients of q, and of k, of every head, where heads share them.
  std::size_t head_bytes() const {
    return group() > 1 ? static_cast<std::size_t>(batch) * static_cast<std::size_t>(tokens) *
                             static_cast<std::size_t>(heads) * kDk * 2
                       : 0;
  }
  static constexpr std::size_t kRows = kChunk * kDv * 2;
  static constexpr std::size_t kState = kDk * kDv * 2;
  static constexpr std::size_t kKept = 3 * kRows + 2 * kChunk * kChunk * 2 + kDk * 4;
};

struct KdaInputs {
  const __nv_bfloat16 *q, *k, *v;
  const float* g;
  const __nv_bfloat16* beta;
  const float* s0;                        // or null: zero
  const std::int64_t* offsets = nullptr;  // [documents + 1] from 0 to T, rising; or null
  RowSteps v_steps = {};                  // multiples of 8
};

/// o and s_end (or null); `kept` is workspace that backward may take over.
cudaError_t kda_forward(const KdaSizes& sizes, const KdaInputs& in, __nv_bfloat16* o, float* s_end,
                        void* kept, cudaStream_t stream);

struct KdaGradients {
  __nv_bfloat16 *q, *k, *v;
  float* g;
  __nv_bfloat16* beta;
  float* s0;              // or null
  RowSteps v_steps = {};  // multiples of 8
};

/// `kept_ready`: forward left it there; else it is made again. gs_end, the gradient of s_end, or
/// null: zero.
cudaError_t kda_backward(const KdaSizes& sizes, const KdaInputs& in, const __nv_bfloat16* go,
                         const float* gs_end, void* kept, bool kept_ready, void* states,
                         void* gradients, const KdaGradients& out, cudaStream_t stream);

// The passes, for timing.
cudaError_t kda_prepare(const KdaSizes& sizes, const KdaInputs& in, void* kept,
                        cudaStream_t stream);
cudaError_t kda_outputs(const KdaSizes& sizes, const KdaInputs& in, __nv_bfloat16* o, float* s_end,
                        const void* kept, cudaStream_t stream);
/// dS' of every chunk and dv; with `states`, states and X of every chunk besides.
cudaError_t kda_reverse(const KdaSizes& sizes, const KdaInputs& in, const __nv_bfloat16* go,
                        const float* gs_end, const void* kept, void* states, void* gradients,
                        __nv_bfloat16* dv, float* ds0, cudaStream_t stream,
                        const RowSteps& dv_steps = {});
cudaError_t kda_gradients(const KdaSizes& sizes, const KdaInputs& in, const __nv_bfloat16* go,
                          const void* kept, const void* states, const void* gradients,
                          const KdaGradients& out, cudaStream_t stream);

}  // namespace ls::kernels::kda
