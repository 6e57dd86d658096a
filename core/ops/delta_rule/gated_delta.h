#pragma once
// Gated delta rule on sm_90a, bf16 with f32 sums, states and gates; plain pointers.
//   S_t = exp(g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,  o_t = scale q_t S_t
// q, k [B,T,H,Dk]  v, o [B,T,HV,Dv]  g [B,T,HV] f32 or null  beta [B,T,HV]  states [N,HV,Dk,Dv]
// f32.
// Value head h reads key head h / (HV / H). N is B, or with `offsets` (then B = 1) the documents
// packed in the row, which begin and end anywhere and may be empty. Dk up to 256 and any Dv, both
// multiples of 8: on the chip Dk is 64, 128 or 256 and Dv a multiple of 64 (Dk 256: of 128).
// Nothing is allocated and nothing synchronises; offsets are read on the device only.
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/backend/cuda/row_steps.h"

namespace ls::kernels::gated_delta {

struct DeltaSizes {
  int batch, tokens, key_heads, heads, dk, dv;
  int documents;  // packed in the one row of the batch, or 0: rows are the sequences
  float scale;
  /// With documents: tokens of the rows whose states come in and go out, of which the row here is
  /// several, one after the other. 0: each document has states of its own.
  int state_tokens = 0;
  static constexpr int kChunk = 64;
  int group() const { return heads / key_heads; }
  int sequences() const { return documents > 0 ? documents : batch; }
  /// Dk and Dv on the chip and in the records.
  int wide_dk() const { return dk <= 64 ? 64 : dk <= 128 ? 128 : 256; }
  int wide_dv() const {
    const int unit = wide_dk() == 256 ? 128 : 64;
    return (dv + unit - 1) / unit * unit;
  }
  /// Chunks of a row, or a bound of those of all its documents: document n's begin at
  /// offsets[n] / 64 + n, so that nobody needs to count them.
  int chunks() const {
    return documents > 0 ? tokens / kChunk + documents : (tokens + kChunk - 1) / kChunk;
  }
  std::size_t records() const { return size(batch) * size(heads) * size(chunks()); }
  std::size_t token_heads() const { return size(batch) * size(tokens) * size(heads); }
  std::size_t state_elements() const {
    return size(sequences()) * size(heads) * size(dk) * size(dv);
  }
  /// Scores and gates of every chunk: forward writes them, backward reads them. Documents: behind
  /// them where each chunk lies.
  std::size_t kept_bytes() const {
    return records() * kKept + (documents > 0 ? size(chunks()) * kPlace : 0);
  }
  /// States and X of every chunk: by forward when asked, else by backward into its workspace.
  std::size_t states_bytes() const { return records() * (state_bytes() + value_bytes()); }
  /// Backward's own: gradients of the states; of shared q and k for each value head; halves of dg.
  std::size_t gradients_bytes() const {
    return records() * state_bytes() + shared_bytes() + (wide_dk() > 128 ? 8 * token_heads() : 0);
  }
  std::size_t shared_bytes() const { return group() > 1 ? 4 * token_heads() * size(dk) : 0; }
  std::size_t state_bytes() const { return size(wide_dv()) * size(wide_dk()) * 2; }
  std::size_t value_bytes() const { return size(wide_dv()) * kChunk * 2; }
  static constexpr std::size_t kScore = kChunk * kChunk * 2;
  static constexpr std::size_t kGates = 4 * kChunk * 4;
  static constexpr std::size_t kKept = 2 * kScore + kGates;
  static constexpr std::size_t kPlace = 8;

 private:
  static constexpr std::size_t size(int n) { return static_cast<std::size_t>(n); }
};

struct DeltaInputs {
  const __nv_bfloat16 *q, *k, *v;
  const float* g;  // or null: no decay
  const __nv_bfloat16* beta;
  const float* s0;              // or null: zero
  const std::int64_t* offsets;  // [documents + 1] from 0 to T, rising; or null
  RowSteps v_steps = {};        // multiples of 8
};

/// o and s_end (or null); `kept` always, `states` or null. Sizes that are not as above are an
/// invalid value.
cudaError_t gated_delta_forward(const DeltaSizes& sizes, const DeltaInputs& in, __nv_bfloat16* o,
                                float* s_end, void* kept, void* states, cudaStream_t stream);

struct DeltaGradients {
  __nv_bfloat16 *q, *k, *v;
  float* g;  // or null
  __nv_bfloat16* beta;
  float* s0;              // or null
  RowSteps v_steps = {};  // multiples of 8
};

/// `states_ready`: forward left them in `states`; else they are made again there. gs_end, the
/// gradient of s_end, or null: zero.
cudaError_t gated_delta_backward(const DeltaSizes& sizes, const DeltaInputs& in,
                                 const __nv_bfloat16* go, const float* gs_end, const void* kept,
                                 void* states, bool states_ready, void* gradients,
                                 const DeltaGradients& out, cudaStream_t stream);

// The passes, for timing.
cudaError_t gated_delta_scores(const DeltaSizes& sizes, const DeltaInputs& in, void* kept,
                               cudaStream_t stream);
/// dS' of every chunk and dv; with `states`, states and X of every chunk besides.
cudaError_t gated_delta_reverse(const DeltaSizes& sizes, const DeltaInputs& in,
                                const __nv_bfloat16* go, const float* gs_end, const void* kept,
                                void* states, void* gradients, __nv_bfloat16* dv, float* ds0,
                                cudaStream_t stream, const RowSteps& dv_steps = {});
cudaError_t gated_delta_gradients(const DeltaSizes& sizes, const DeltaInputs& in,
                                  const __nv_bfloat16* go, const void* kept, void* states,
                                  void* gradients, const DeltaGradients& out, cudaStream_t stream);

}  // namespace ls::kernels::gated_delta
