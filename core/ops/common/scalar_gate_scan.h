#pragma once
// Decayed linear attention with a scalar gate on sm_90a, bf16 with f32 sums, states and gates;
// plain pointers. core/ops/decayed_linear has the kernels; other ops run their scans on them.
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

/// Keys with weights and outputs that are divided by what the keys sum up to, as in a matrix LSTM:
///   S_t = exp(g_t) S_{t-1} + w_t k_t v_t^T,  n_t alike of k_t,  d_t = scale q_t n_t
///   o_t = scale q_t S_t / h_t,  h_t = max(|d_t|, exp(-m_t)) + eps, or 1
/// Heads have queries and keys of their own, Dv is at most 128. Products have their operands in two
/// parts of bf16 each, where these were rounded: values and normaliser cancel in the gradients.
/// Numbers of a token are [B,T,H] f32, those of a chunk [records][kDk] f32.
struct Normaliser {
  const float* written = nullptr;  // log w, at most 0
  const float* m = nullptr;
  bool divides = true;
  float eps = 0;
  // Of forward, which backward needs again.
  float* sums = nullptr;                    // n before each chunk
  float *over = nullptr, *under = nullptr;  // 1 / h; -sign(d) / h where |d| > exp(-m), else 0
  __nv_bfloat16* o_rest = nullptr;          // o - what was stored of it, [B,T,H,Dv], or null
  const float* n0 = nullptr;                // [N,H,Dk], or null: zero
  float* n_end = nullptr;                   // or null
  // Of backward.
  const float* below = nullptr;  // gradient of d
  float* dsums = nullptr;        // gradient of n after each chunk
  const float* gn_end = nullptr;
  float *dn0 = nullptr, *dwritten = nullptr;  // or null
  float* s_end = nullptr;                     // the last state again, or null
};

struct LinearInputs {
  const __nv_bfloat16 *q, *k, *v;
  const float* g;                          // or null
  const float* decay;                      // or null; not with g
  const float* s0;                         // or null: zero
  const std::int64_t* offsets = nullptr;   // [documents + 1] from 0 to T, rising; or null
  const Normaliser* normaliser = nullptr;  // or null: weights 1, nothing is divided
};

/// How forward is laid out: value groups of 64 columns a CTA, segments of a sequence; pieces of a
/// segment that are summed apart for the states that segments start from.
struct LinearPlan {
  int groups, segments, pieces = 1;
};
/// From the sizes and the number of multiprocessors alone.
LinearPlan decayed_linear_plan(const LinearSizes& sizes, int processors, bool normalised = false);

std::size_t decayed_linear_forward_workspace(const LinearSizes& sizes, const LinearPlan& plan,
                                             bool normalised = false);
/// o and s_end (or null).
cudaError_t decayed_linear_forward(const LinearSizes& sizes, const LinearPlan& plan,
                                   const LinearInputs& in, __nv_bfloat16* o, float* s_end,
                                   void* workspace, cudaStream_t stream);

struct LinearGradients {
  __nv_bfloat16 *q, *k, *v;
  float* g;   // or null
  float* s0;  // or null
};
std::size_t decayed_linear_backward_workspace(const LinearSizes& sizes, bool normalised = false);
/// go [B,T,H,Dv]; gs_end: gradient of the last state, or null: zero.
cudaError_t decayed_linear_backward(const LinearSizes& sizes, const LinearInputs& in,
                                    const __nv_bfloat16* go, const float* gs_end, void* workspace,
                                    const LinearGradients& out, cudaStream_t stream);

}  // namespace ls::kernels::decayed_linear
