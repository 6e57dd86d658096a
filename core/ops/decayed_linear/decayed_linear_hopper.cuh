#pragma once
// What the kernels of decayed linear attention share.
#include "core/backend/cuda/device/wgmma.cuh"
#include "core/backend/cuda/tensor_maps.h"
#include "core/ops/common/hopper_chunks.cuh"
#include "core/ops/decayed_linear/decayed_linear_hopper.h"

namespace ls::kernels::decayed_linear {

using cuda::bf16;
using cuda::last_turn;
using cuda::load_transposed;
using cuda::Mbarrier;
using cuda::this_turn;
namespace wgmma = cuda::wgmma;
using wgmma::Depth;

inline constexpr int kDk = LinearSizes::kDk;
inline constexpr int kDv = LinearSizes::kDv;
/// A state of one chunk as bf16, transposed: for each 64 keys [128 values][64 keys] swizzled. Its
/// image in memory has the tiles that there are, the others are zeros on the chip.
inline constexpr int kStateBytes = kDk * kDv * 2;

/// Launches a kernel that may start while the one before it in the stream ends: it calls
/// wait_for_previous_grid before it reads or writes anything but its arguments.
template <class... Parameters, class... Values>
cudaError_t launch_behind(void (*kernel)(Parameters...), int64_t blocks, int threads, int bytes,
                          cudaStream_t stream, const Values&... values) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(bytes);
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, values...);
}

/// What kernels know of the sizes beside where chunks lie; `head` counts lanes.
struct Lanes {
  Layout layout;
  int query_group, key_group, parts;  // lanes that share a query, a key, a gate
  int dk, dv, width;                  // Dk, Dv, value columns of a lane
  int slices, key_tiles;              // of 64
  int shift;                          // of keys, values and gates
  __device__ int query(int head) const { return query_group == 1 ? head : head / query_group; }
  __device__ int key(int head) const { return key_group == 1 ? head : head / key_group; }
  __device__ int gate(int head) const { return parts == 1 ? head : head / parts; }
  /// Where the state of a chain begins, rows of Dv.
  template <class T>
  __device__ T* state(T* base, int64_t chain) const {
    return base && chain >= 0 ? base + chain / parts * dk * dv + chain % parts * kDv : nullptr;
  }
  __device__ int64_t state_bytes() const { return int64_t{kTile} * (slices * key_tiles); }
};
inline Layout layout_in(const LinearSizes& z, const int64_t* offsets, void* places) {
  return {offsets,
          offsets ? static_cast<const int2*>(places) : nullptr,
          z.steps(),
          z.lanes(),
          1,
          z.chunks(),
          z.batch * z.lanes(),
          z.state_tokens};
}
inline Lanes lanes_in(const LinearSizes& z, const int64_t* offsets, void* places) {
  return {layout_in(z, offsets, places),
          z.lanes() / z.queries(),
          z.lanes() / z.keys(),
          z.parts(),
          z.dk,
          z.dv,
          z.width(),
          z.slices(),
          z.key_tiles(),
          z.shift};
}
/// Backward's workspace: images of states and of their gradients; where chunks lie; gradients of
/// queries, keys and gates of every lane, where lanes share them.
struct Workspace {
  unsigned char *states, *dstates;
  void* places;
  bf16 *dq, *dk;
  float* dg;
  float* decays;   // with a normaliser: of a chunk
  void* segments;  // summaries
  std::size_t bytes = 0;
  /// `gate_columns` of a token and lane; `summaries`: bytes.
  Workspace(const LinearSizes& z, int gate_columns, void* memory, bool normalised = false,
            std::size_t summaries = 0) {
    const std::size_t each = z.token_lanes();
    const std::size_t images = z.records() * z.state_bytes() * (normalised ? 2 : 1);
    const auto size = [](int n) { return static_cast<std::size_t>(n); };
    const auto take = [&](std::size_t n) {
      auto* const p = static_cast<unsigned char*>(memory) + bytes;
      bytes += (n + 127) / 128 * 128;
      return n > 0 ? p : nullptr;
    };
    states = take(images);
    dstates = take(images);
    places = take(z.documents > 0 ? size(z.chunks()) * sizeof(int2) : 0);
    dq = reinterpret_cast<bf16*>(take(z.queries() < z.lanes() ? each * size(2 * z.dk) : 0));
    dk = reinterpret_cast<bf16*>(take(z.keys() < z.lanes() ? each * size(2 * z.dk) : 0));
    dg = reinterpret_cast<float*>(take(z.parts() > 1 ? each * size(4 * gate_columns) : 0));
    decays = reinterpret_cast<float*>(take(normalised ? z.records() * sizeof(float) : 0));
    segments = take(summaries);
  }
};
/// Where the chunks of documents lie.
inline cudaError_t find_chunks(const LinearSizes& z, const int64_t* offsets, int gate_columns,
                               void* memory, cudaStream_t stream) {
  return offsets ? find_places(layout_in(z, offsets, Workspace(z, gate_columns, memory).places),
                               z.documents, stream)
                 : cudaSuccess;
}
/// Sums over the lanes that share.
inline cudaError_t sum_lanes(const LinearSizes& z, const Workspace& w, int gate_columns,
                             const LinearGradients& out, cudaStream_t stream) {
  const auto rows = static_cast<int64_t>(z.token_lanes());
  const int queries = z.lanes() / z.queries(), keys = z.lanes() / z.keys();
  if (w.dq) {
    if (const cudaError_t e = sum_groups(w.dq, out.q, rows / queries, queries, z.dk, stream)) {
      return e;
    }
  }
  if (w.dk) {
    if (const cudaError_t e = sum_groups(w.dk, out.k, rows / keys, keys, z.dk, stream)) {
      return e;
    }
  }
  return w.dg && out.g ? sum_groups(w.dg, out.g, rows / z.parts(), z.parts(), gate_columns, stream)
                       : cudaSuccess;
}
/// Maps of q, k, v, o or those of their gradients; q and k of `lanes` where each lane has its own.
inline cudaError_t encode_operands(CUtensorMap (&maps)[4], const LinearSizes& z,
                                   const void* const (&at)[4], int query_heads, int key_heads) {
  const int heads[] = {query_heads, key_heads, z.lanes(), z.lanes()};
  const int columns[] = {z.dk, z.dk, z.width(), z.width()};
  for (int i = 0; i < 4; ++i) {
    if (const cudaError_t e =
            encode_rows(&maps[i], at[i], z.batch, z.tokens, heads[i], columns[i])) {
      return e;
    }
  }
  return cudaSuccess;
}

/// Where the scalar gate of (b, t, h) comes from, 0 from token `end` on; with a normaliser also
/// numbers of the token.
struct GateSource {
  const float* g;
  const float* decay;
  int tokens, heads;
  const float *written = nullptr, *over = nullptr, *below = nullptr;
  __device__ float at(int64_t b, int t, int h, int end) const {
    return t >= end ? 0.f : g ? g[(b * tokens + t) * heads + h] : decay ? decay[h] : 0.f;
  }
  __device__ float number(const float* of, int64_t b, int t, int h, int end) const {
    return of && t < end ? of[(b * tokens + t) * heads + h] : 0.f;
  }
};
inline GateSource gates_of(const LinearSizes& z, const LinearInputs& in) {
  GateSource gates{in.g, in.decay, z.tokens, z.heads};
  if (in.normaliser) {
    gates.written = in.normaliser->written;
    gates.over = in.normaliser->over;
    gates.below = in.normaliser->below;
  }
  return gates;
}

/// Scalar gates of one chunk. Tokens past the end decay nothing, read nothing and write nothing;
/// their sums are such that they see and are seen by no other token.
struct alignas(16) ScalarGates {
  float sum[64];   // G: running sum of log2 decays, inclusive
  float read[64];  // scale exp(G_t): how token t reads the state before the chunk
  float end[64];   // w_t exp(G_C - G_t): what is left of token t's write after the chunk
  float all;       // exp(G_C)
  float log_all;   // log2 of it
  float unused[2];
};
struct NormalGates : ScalarGates {
  float seen[64];             // G_t - log2 w_t: what a reader's sum is compared with
  float over[64], below[64];  // Normaliser
  float value_read[64];       // read over: of gradients of outputs
  float sum_read[64];         // read below: of gradients of d
};
template <bool kNormal>
struct GatesOf {
  using Type = ScalarGates;
};
template <>
struct GatesOf<true> {
  using Type = NormalGates;
};
template <bool kNormal>
using Gates = typename GatesOf<kNormal>::Type;

/// What the gates of two tokens of a lane of one warp are made of.
template <bool kNormal>
struct GateInputs {
  float g[2] = {}, written[2] = {}, over[2] = {}, below[2] = {};
  __device__ __forceinline__ void read(const GateSource& from, int64_t b, int t, int h, int end) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      g[i] = from.at(b, t + i, h, end);
      if constexpr (kNormal) {
        written[i] = from.number(from.written, b, t + i, h, end);
        over[i] = from.number(from.over, b, t + i, h, end);
        below[i] = from.number(from.below, b, t + i, h, end);
      }
    }
  }
};

/// By one warp, two tokens a lane: natural logs, 0 from token `valid` on.
template <bool kNormal>
__device__ __forceinline__ void write_gates(Gates<kNormal>& to, const GateInputs<kNormal>& in,
                                            float scale, int valid, int lane) {
  constexpr float kLog2e = 1.4426950408889634f, kNoToken = -1e30f;
  const float g0 = in.g[0] * kLog2e, g1 = in.g[1] * kLog2e;
  float sum = g0 + g1;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const float before = __shfl_up_sync(0xffffffffu, sum, step);
    sum += lane >= step ? before : 0.f;
  }
  const float all = __shfl_sync(0xffffffffu, sum, 31);
  const float before = __shfl_up_sync(0xffffffffu, sum, 1);
  const float first = (lane > 0 ? before : 0.f) + g0;
  const bool here = 2 * lane < valid, next = 2 * lane + 1 < valid;
  const auto put = [&](float(&array)[64], float x, float y) {
    reinterpret_cast<float2*>(array)[lane] = make_float2(x, y);
  };
  const float read0 = here ? scale * cuda::exp2_fast(first) : 0.f;
  const float read1 = next ? scale * cuda::exp2_fast(sum) : 0.f;
  const float w0 = kNormal ? in.written[0] * kLog2e : 0.f;
  const float w1 = kNormal ? in.written[1] * kLog2e : 0.f;
  put(to.sum, here ? first : kNoToken, next ? sum : kNoToken);
  put(to.read, read0, read1);
  put(to.end, here ? cuda::exp2_fast(all - first + w0) : 0.f,
      next ? cuda::exp2_fast(all - sum + w1) : 0.f);
  if constexpr (kNormal) {
    put(to.seen, here ? first - w0 : kNoToken, next ? sum - w1 : kNoToken);
    put(to.over, in.over[0], in.over[1]);
    put(to.below, in.below[0], in.below[1]);
    put(to.value_read, read0 * in.over[0], read1 * in.over[1]);
    put(to.sum_read, read0 * in.below[0], read1 * in.below[1]);
  }
  if (lane == 0) {
    to.all = cuda::exp2_fast(all);
    to.log_all = all;
  }
}

/// d = rows(a) rows(b)^T over 128 columns: both [64][128], two tiles one after the other.
__device__ __forceinline__ void multiply_rows(float (&d)[32], const void* a, const void* b) {
  const uint64_t x = wgmma::rows(cuda::smem_addr(a)), y = wgmma::rows(cuda::smem_addr(b));
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    wgmma::multiply<64, Depth::kRows, Depth::kRows>(d, wgmma::step_rows(x, i),
                                                    wgmma::step_rows(y, i), i > 0);
  }
}

/// Scores of this warp's 16 rows as operands: d * scale * exp(G_t - G_s) for s <= t, else 0; the
/// exponent is formed only where s <= t. kTransposed: rows are s, columns t.
template <bool kTransposed>
__device__ __forceinline__ void gate_scores(uint32_t (&to)[4][4], const float (&d)[32],
                                            const ScalarGates& gates, float scale, int warp,
                                            int lane) {
  const int row = 16 * warp + (lane >> 2), pair = 2 * (lane & 3);
  const float g0 = gates.sum[row], g1 = gates.sum[row + 8];
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const bool none = kTransposed ? 8 * j + 7 < 16 * warp : 8 * j > 16 * warp + 15;
    uint32_t low = 0, high = 0;
    if (!none) {
      const int column = 8 * j + pair;
      const float2 g = *reinterpret_cast<const float2*>(gates.sum + column);
      const auto factor = [&](float at_row, float at_column, bool keep) {
        return keep ? scale * cuda::exp2_fast(kTransposed ? at_column - at_row : at_row - at_column)
                    : 0.f;
      };
      const auto kept = [&](int r, int c) { return kTransposed ? r <= c : c <= r; };
      low = cuda::pack_bf16(d[4 * j] * factor(g0, g.x, kept(row, column)),
                            d[4 * j + 1] * factor(g0, g.y, kept(row, column + 1)));
      high = cuda::pack_bf16(d[4 * j + 2] * factor(g1, g.x, kept(row + 8, column)),
                             d[4 * j + 3] * factor(g1, g.y, kept(row + 8, column + 1)));
    }
    to[j / 2][2 * (j % 2)] = low;
    to[j / 2][2 * (j % 2) + 1] = high;
  }
}

/// Scales an operand by a weight a token, its depth.
__device__ __forceinline__ void weigh_tokens(uint32_t (&x)[4][4], const float (&weight)[64],
                                             int lane) {
  const int pair = 2 * (lane & 3);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const float2 w = *reinterpret_cast<const float2*>(weight + 16 * i + 8 * (m / 2) + pair);
      x[i][m] = cuda::pack_bf16(w.x * cuda::low_bf16(x[i][m]), w.y * cuda::high_bf16(x[i][m]));
    }
  }
}

/// A state S [Dk][Dv] f32 in device memory (Lanes::state) to and from the sums of S^T: 64 values
/// from `value`; zeros behind its ends.
__device__ __forceinline__ void load_state(float (&state)[kDk / 2], const float* from,
                                           const Lanes& z, int value, int warp, int lane) {
  const int row = value + 16 * warp + (lane >> 2), pair = 2 * (lane & 3);
#pragma unroll
  for (int i = 0; i < kDk / 2; ++i) {
    const int key = 8 * (i / 4) + pair + i % 2, column = row + (i & 2) * 4;
    const bool there = from && key < z.dk && column < z.width;
    state[i] = there ? from[static_cast<int64_t>(key) * z.dv + column] : 0.f;
  }
}
__device__ __forceinline__ void store_state(float* to, const float (&state)[kDk / 2],
                                            const Lanes& z, int value, int warp, int lane) {
  const int row = value + 16 * warp + (lane >> 2), pair = 2 * (lane & 3);
#pragma unroll
  for (int i = 0; i < kDk / 2; ++i) {
    const int key = 8 * (i / 4) + pair + i % 2, column = row + (i & 2) * 4;
    if (to && key < z.dk && column < z.width) {
      to[static_cast<int64_t>(key) * z.dv + column] = state[i];
    }
  }
}
/// The image of a state into its place on the chip [2][128 values][64 keys].
__device__ __forceinline__ void load_image(unsigned char* to, const unsigned char* from,
                                           const Lanes& z, Mbarrier& full) {
  for (int i = 0; i < z.key_tiles; ++i) {
    cuda::load_bytes(to + i * 2 * kTile, from + i * z.slices * kTile, z.slices * kTile, full);
  }
}
/// Zeros where no image lies, once, by `threads` threads; a fence and a barrier follow.
__device__ __forceinline__ void clear_images(unsigned char* states, const Lanes& z, int id,
                                             int threads) {
  if (z.slices * z.key_tiles < 4) {
    for (int i = id; i < kStateBytes / 16; i += threads) {
      reinterpret_cast<uint4*>(states)[i] = make_uint4(0, 0, 0, 0);
    }
    cuda::fence_proxy_async();
  }
}
/// Whether a call has chunks whose rows are stored one by one: where another document follows, or
/// the first token is -1, at which no box is stored. Kernels have an instance for either, since the
/// warps that bring and store have few registers.
inline bool has_cuts(const LinearSizes& z) {
  return z.documents > 0 || z.shift > 0;
}
/// 64 columns of a lane's rows [B,T,lanes,columns], those that there are, from one tile: a box by
/// one thread, or with kCuts by a warp, row by row where it must be.
template <bool kCuts>
__device__ __forceinline__ void store_columns(const CUtensorMap& map, bf16* rows, const Lanes& z,
                                              const unsigned char* from, int columns, int column,
                                              int head, int first, int row, int valid, bool cut,
                                              int lane) {
  if (kCuts && (cut || first < 0)) {
    const int64_t stride = static_cast<int64_t>(z.layout.heads) * columns;
    const int64_t token = static_cast<int64_t>(row) * (z.layout.tokens - z.shift) + first;
    copy_rows(rows + token * stride + static_cast<int64_t>(head) * columns + column, stride, from,
              valid, columns - column, lane, 32, first < 0 ? -first : 0);
  } else if (!kCuts || lane == 0) {
    cuda::store_box(&map, from, column, head, first, row);
  }
}

/// Waits without taking turns from the warps that work: for those that only bring and store.
__device__ __forceinline__ void wait_idle(const Mbarrier& barrier, uint32_t parity) {
  while (!barrier.done(parity)) {
    __nanosleep(100);
  }
}

/// Summaries of segments: what a segment of a chain adds to its last state, as the sums of S^T lie
/// in the registers of a warpgroup, and the segment's log2 decay.
struct Segments {
  float4* sums;       // [chain][segment][64 values][16][128]
  float* decays;      // [chain][segment]
  int count, length;  // segments of a chain, chunks of a segment
  int summed;         // of the count
  static constexpr int kFloat4 = kDk * kDv / 4;
  __host__ __device__ int64_t at(int64_t chain, int segment) const {
    return chain * count + segment;
  }
};
/// A CTA's part of a chain: chunks [first, last) of a segment.
struct SegmentPlace {
  int slice, segment, first, last;
  Chain chain;
  int64_t index;  // of the chain
  /// Block: slice fastest, then lane, segment, sequence.
  __device__ SegmentPlace(const Lanes& z, int slices, int count, int length, int64_t block)
      : slice(static_cast<int>(block % slices)),
        segment(static_cast<int>(block / slices / z.layout.heads % count)),
        first(segment * length),
        chain(z.layout, block / slices / z.layout.heads / count * z.layout.heads +
                            block / slices % z.layout.heads),
        index(block / slices / z.layout.heads / count * z.layout.heads +
              block / slices % z.layout.heads) {
    last = min(chain.chunks, first + length);
  }
  /// To the next segment.
  __device__ void advance(int length) {
    ++segment;
    first += length;
    last = min(chain.chunks, first + length);
  }
  __device__ int token(int chunk) const { return chain.first + 64 * chunk; }
  __device__ int end() const { return chain.first + chain.length; }
};
/// The sums of S^T behind a segment, from those before it; by a warpgroup, of 64 values.
__device__ __forceinline__ void add_segment(float (&state)[kDk / 2], const Segments& s,
                                            int64_t record, int slice, int thread) {
  const float decay = cuda::exp2_fast(s.decays[record]);
  const float4* const sums = s.sums + (record * 2 + slice) * (16 * 128) + thread;
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const float4 x = sums[j * 128];
    state[4 * j] = decay * state[4 * j] + x.x;
    state[4 * j + 1] = decay * state[4 * j + 1] + x.y;
    state[4 * j + 2] = decay * state[4 * j + 2] + x.z;
    state[4 * j + 3] = decay * state[4 * j + 3] + x.w;
  }
}
/// All pieces of `plan` but those of the last segment are summed.
inline Segments segments_in(const LinearSizes& sizes, const LinearPlan& plan, void* memory) {
  const int count = plan.segments * plan.pieces;
  auto* sums = static_cast<float4*>(memory);
  const std::size_t n = static_cast<std::size_t>(sizes.chains()) * static_cast<std::size_t>(count);
  return {sums, reinterpret_cast<float*>(sums ? sums + n * Segments::kFloat4 : nullptr), count,
          (sizes.chunks() + count - 1) / count, count - plan.pieces};
}
/// Segments of a chain for backward's states, where chains, each worked on by so many CTAs of which
/// `places` run at once, are few: 1, or some whose summaries of both directions are made first.
inline int states_segments(const LinearSizes& z, int ctas, int places) {
  constexpr int kFewest = 8;  // chunks of one
  const int most = min(places / (ctas * z.chains()), z.chunks() / kFewest);
  // Summaries read everything once more: two segments are no faster than one.
  if (z.documents > 0 || most < 3) {
    return 1;
  }
  const int length = (z.chunks() + most - 1) / most;
  return (z.chunks() + length - 1) / length;
}
/// What a launch for summaries or images of states has of the chains' segments.
struct StatesCut {
  int directions, launched;  // segments of a direction
  int64_t reverse;           // where the summaries of the way back begin
};

/// Sets in.normaliser's sums, the last n, and decays of chunks; the same of the way back: dsums and
/// dn0 (decayed_linear_normaliser.cu). `places` as found where there are documents.
cudaError_t normaliser_sums(const LinearSizes& sizes, const LinearInputs& in, bool reverse,
                            void* places, float* decays, cudaStream_t stream);
/// Sums over the chunks of every segment but the last (decayed_linear_states.cu).
cudaError_t decayed_linear_sums(const LinearSizes& sizes, const LinearInputs& in,
                                const Segments& segments, cudaStream_t stream);

}  // namespace ls::kernels::decayed_linear
