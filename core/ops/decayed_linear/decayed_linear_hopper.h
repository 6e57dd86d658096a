#pragma once
// Decayed linear attention on sm_90a, bf16 with f32 sums, states and gates; plain pointers.
//   S_t = exp(g_t) S_{t-1} + k_t v_t^T,  o_t = scale q_t S_t
// q [B,T,HQ,Dk]  k [B,T,HK,Dk]  v, o [B,T,H,Dv]  states [N,H,Dk,Dv] f32. HQ and HK divide H:
// consecutive heads share a query and a key. The gate is a scalar a token and head, g [B,T,H] f32,
// or a constant of the head, decay [H] f32, or neither (no decay).
// Dk is at most 128, Dv at most 128 or a multiple of it, both multiples of 8: what is missing to
// 128 is zeros on the chip, and what is more are further heads that share query, key and gate.
// N is B; with `offsets` (then B is 1) documents are packed in the one row, begin and end anywhere
// and may be empty, and states are of the rows of state_tokens that it is made of, or of documents.
// Nothing is allocated and nothing synchronises; results are the same bits every time.
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace ls::kernels::decayed_linear {

struct LinearSizes {
  int batch, tokens, heads;
  float scale;
  int query_heads = 0, key_heads = 0;  // 0: heads
  int dk = kDk, dv = kDv;
  int documents = 0;     // packed in the one row of the batch, or 0: rows are the sequences
  int state_tokens = 0;  // with documents: tokens of a row with states; 0: documents have states
  /// 1: reads before writes, so keys, values and gates are those of the token before, and one more
  /// step writes the last of them; gates by channel only, without documents.
  int shift = 0;
  static constexpr int kDk = 128;
  static constexpr int kDv = 128;
  static constexpr int kChunk = 64;
  bool valid() const {
    return batch > 0 && tokens > 0 && heads > 0 && dk > 0 && dk <= kDk && dk % 8 == 0 && dv > 0 &&
           dv % (dv > kDv ? kDv : 8) == 0 && heads % queries() == 0 && heads % keys() == 0 &&
           (documents == 0 || (batch == 1 && shift == 0));
  }
  int steps() const { return tokens + shift; }
  int queries() const { return query_heads > 0 ? query_heads : heads; }
  int keys() const { return key_heads > 0 ? key_heads : heads; }
  /// Lanes: heads of at most 128 value columns each.
  int parts() const { return dv > kDv ? dv / kDv : 1; }
  int lanes() const { return heads * parts(); }
  int width() const { return dv > kDv ? kDv : dv; }
  int slices() const { return (width() + 63) / 64; }
  int key_tiles() const { return (dk + 63) / 64; }
  int sequences() const { return documents > 0 ? documents : batch; }
  int chains() const { return sequences() * lanes(); }
  /// Of a row, or a bound of those of all its documents: document n's begin at offsets[n] / 64 + n.
  int chunks() const {
    return documents > 0 ? tokens / kChunk + documents : (steps() + kChunk - 1) / kChunk;
  }
  std::size_t records() const {
    return static_cast<std::size_t>(batch) * static_cast<std::size_t>(lanes()) *
           static_cast<std::size_t>(chunks());
  }
  /// Of an image of a state.
  std::size_t state_bytes() const { return std::size_t{8192} * (key_tiles() * slices()); }
  std::size_t token_lanes() const {
    return static_cast<std::size_t>(batch) * static_cast<std::size_t>(tokens) *
           static_cast<std::size_t>(lanes());
  }
};

struct LinearInputs {
  const __nv_bfloat16 *q, *k, *v;
  const float* g;                         // or null
  const float* decay;                     // or null; not with g
  const float* s0;                        // or null: zero
  const std::int64_t* offsets = nullptr;  // [documents + 1] from 0 to T, rising; or null
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
/// go [B,T,H,Dv]; gs_end: gradient of the last state, or null: zero.
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
