#pragma once
// The selective scan with states of at most 16 elements in registers. A block walks 32 channels of
// a group of a row, four threads a channel with four elements each, in chunks of 16 tokens whose
// numbers arrive while the ones before are worked on. Forward moves x, dt in and y out once.
// Backward runs the states again from those before each chunk, which a pass of its own leaves
// [rows,chunks,D,S]; db and dc are summed over a warp's channels by halves, over warps in shared
// memory, over blocks by a kernel behind, all in one order.
#include <cuda_bf16.h>

#include <type_traits>

#include "core/backend/cuda/device/gates.cuh"
#include "core/backend/cuda/switches.h"
#include "core/op/report.h"
#include "core/ops/common/document_marks.cuh"
#include "core/ops/selective_scan/selective_scan_blocks.h"

namespace ls::ops::selective_scan::walk {

inline constexpr int kTokens = 16, kChannels = 32, kParts = 4, kOwn = 4;
inline constexpr int kElements = kParts * kOwn, kThreads = kChannels * kParts;
inline constexpr int kWarps = kThreads / 32;

template <class T>
using Element = std::conditional_t<std::is_same_v<T, float>, float, __nv_bfloat16>;
__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ void put(float* to, float x) {
  *to = x;
}
__device__ __forceinline__ void put(__nv_bfloat16* to, float x) {
  *to = __float2bfloat16_rn(x);
}

template <class E>
struct Call {
  int rows = 0, tokens = 0, d = 0, s = 0, groups = 0;
  const unsigned char* begins = nullptr;  ///< [B,T]: a document does here; or null
  const E *x = nullptr, *b = nullptr, *c = nullptr, *gy = nullptr;
  const float *dt = nullptr, *a = nullptr, *s0 = nullptr, *gsT = nullptr;
  E *y = nullptr, *dx = nullptr;
  float *ddt = nullptr, *sT = nullptr, *states = nullptr, *ds0 = nullptr;
  float *db = nullptr, *dc = nullptr;  ///< [channel tiles,B*T,G,S]
  float* da = nullptr;                 ///< [B,D,S]
  __host__ __device__ int per_group() const { return d / groups; }
  __host__ __device__ int tiles() const { return (per_group() + kChannels - 1) / kChannels; }
  __host__ __device__ int chunks() const { return (tokens + kTokens - 1) / kTokens; }
};

/// Numbers of a chunk, and what is made of them by channel.
struct Chunk {
  float x[kTokens][kChannels], dt[kTokens][kChannels], gy[kTokens][kChannels];
  float b[kTokens][kElements], c[kTokens][kElements];
  int begins[kTokens];  ///< a document does
};

enum class Pass { kOutputs, kStates, kGradients };

template <class E, Pass kPass>
struct Walk {
  static constexpr bool kReads = kPass != Pass::kStates;
  static constexpr bool kBack = kPass == Pass::kGradients;
  static constexpr int kWide = kTokens * kChannels / kThreads;    // x, dt, gy of a thread
  static constexpr int kNarrow = kTokens * kElements / kThreads;  // b, c
  static_assert(kTokens == 16 && kParts == 4);                    // sum_parts

  struct Numbers {
    float x[kWide], dt[kWide], gy[kBack ? kWide : 1], b[kNarrow], c[kReads ? kNarrow : 1];
    int begins;  // of threads below kTokens
  };
  struct Shared {
    Chunk chunk[2];
    float out[kBack ? 2 : 1][kTokens][kChannels];            // y; or dx, ddt
    float sums[kBack ? kWarps : 1][kTokens][2 * kElements];  // db and dc of a warp's channels
  };

  const Call<E>& call;
  Shared& s;
  int row, group, first_channel, channels, channel, element, own_channel;
  float rate[kOwn], h[kOwn];

  __device__ Walk(const Call<E>& z, Shared& shared)
      : call(z),
        s(shared),
        row(static_cast<int>(blockIdx.y)),
        group(static_cast<int>(blockIdx.x) / z.tiles()),
        own_channel(static_cast<int>(threadIdx.x) / kParts) {
    const int tile = static_cast<int>(blockIdx.x) % z.tiles();
    first_channel = group * z.per_group() + tile * kChannels;
    channels = min(kChannels, z.per_group() - tile * kChannels);
    channel = first_channel + own_channel;
    element = static_cast<int>(threadIdx.x) % kParts * kOwn;
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      rate[k] = has(k) ? z.a[static_cast<int64_t>(channel) * z.s + element + k] : 0.f;
    }
  }
  __device__ bool has(int k) const {
    return own_channel < channels && element + k < call.s;
  }
  __device__ int64_t state_at(int64_t entry, int k) const {
    return (entry * call.d + channel) * call.s + element + k;
  }
  __device__ float decay(float dt, int k) const {
    if constexpr (std::is_same_v<E, float>) {
      return expf(dt * rate[k]);
    } else {
      return cuda::exp2_fast(dt * rate[k]);  // rates are of base 2, see use_base_two
    }
  }
  /// Of rates as decay wants them.
  __device__ void use_base_two() {
    if constexpr (!std::is_same_v<E, float>) {
#pragma unroll
      for (float& r : rate) {
        r *= 1.4426950408889634f;
      }
    }
  }
  __device__ bool fresh(int t) const {
    return call.begins && t > 0 && call.begins[static_cast<int64_t>(row) * call.tokens + t];
  }
  __device__ int count(int chunk) const {
    return min(kTokens, call.tokens - chunk * kTokens);
  }

  /// Zeros behind the end: with dt = 0 a token changes no state and no gradient of one.
  __device__ void load(int chunk, Numbers& to) const {
    const int64_t token = static_cast<int64_t>(row) * call.tokens + chunk * kTokens;
    const int there = chunk >= 0 && chunk < call.chunks() ? count(chunk) : 0;
    const int own = static_cast<int>(threadIdx.x);
    to.begins = own < there && fresh(chunk * kTokens + own);
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      const int e = static_cast<int>(threadIdx.x) + i * kThreads, c = e % kChannels;
      const bool here = e / kChannels < there && c < channels;
      const int64_t at = here ? (token + e / kChannels) * call.d + first_channel + c : 0;
      to.x[i] = here ? to_float(call.x[at]) : 0.f;
      to.dt[i] = here ? call.dt[at] : 0.f;
      if constexpr (kBack) {
        to.gy[i] = here && call.gy ? to_float(call.gy[at]) : 0.f;
      }
    }
#pragma unroll
    for (int i = 0; i < kNarrow; ++i) {
      const int e = static_cast<int>(threadIdx.x) + i * kThreads, k = e % kElements;
      const bool here = e / kElements < there && k < call.s;
      const int64_t at = here ? ((token + e / kElements) * call.groups + group) * call.s + k : 0;
      to.b[i] = here ? to_float(call.b[at]) : 0.f;
      if constexpr (kReads) {
        to.c[i] = here ? to_float(call.c[at]) : 0.f;
      }
    }
  }
  __device__ void put_numbers(Chunk& to, const Numbers& x) const {
    if (threadIdx.x < kTokens) {
      to.begins[threadIdx.x] = x.begins;
    }
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      const int e = static_cast<int>(threadIdx.x) + i * kThreads;
      to.x[e / kChannels][e % kChannels] = x.x[i];
      to.dt[e / kChannels][e % kChannels] = x.dt[i];
      if constexpr (kBack) {
        to.gy[e / kChannels][e % kChannels] = x.gy[i];
      }
    }
#pragma unroll
    for (int i = 0; i < kNarrow; ++i) {
      const int e = static_cast<int>(threadIdx.x) + i * kThreads;
      to.b[e / kElements][e % kElements] = x.b[i];
      if constexpr (kReads) {
        to.c[e / kElements][e % kElements] = x.c[i];
      }
    }
  }
  __device__ float4 of_elements(const float (&x)[kElements]) const {
    return *reinterpret_cast<const float4*>(x + element);
  }
  /// h after token i of the chunk.
  __device__ void step(const Chunk& z, int i) {
    const float dt = z.dt[i][own_channel], written = dt * z.x[i][own_channel];
    const float4 b = of_elements(z.b[i]);
    const float bs[] = {b.x, b.y, b.z, b.w};
    const bool from_zero = z.begins[i] != 0;
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      h[k] = fmaf(decay(dt, k), from_zero ? 0.f : h[k], written * bs[k]);
    }
  }
  /// The sum over the threads of a channel.
  __device__ static float all_parts(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
  }
  /// Sums over the threads of a channel: each is left with those of four numbers, from the returned
  /// one on. Halves change hands.
  __device__ static int sum_parts(float (&x)[16]) {
    int first = 0;
#pragma unroll
    for (int step = 1, left = 8; step < kParts; step *= 2, left /= 2) {
      const bool upper = (threadIdx.x & step) != 0;
      first += upper ? left : 0;
#pragma unroll
      for (int n = 0; n < left; ++n) {
        const float give = upper ? x[n] : x[n + left], keep = upper ? x[n + left] : x[n];
        x[n] = keep + __shfl_xor_sync(0xffffffffu, give, step);
      }
    }
    return first;
  }
  __device__ void first_state() {
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      h[k] = call.s0 && has(k) ? call.s0[state_at(row, k)] : 0.f;
    }
  }
  __device__ void store_state(float* to, int64_t entry) const {
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      if (to && has(k)) {
        to[state_at(entry, k)] = h[k];
      }
    }
  }
  /// [tokens][channels] to rows of D.
  template <class To>
  __device__ void store_rows(To* to, const float (&from)[kTokens][kChannels], int chunk) const {
    if (!to) {
      return;
    }
    const int64_t token = static_cast<int64_t>(row) * call.tokens + chunk * kTokens;
    const int there = count(chunk);
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      const int e = static_cast<int>(threadIdx.x) + i * kThreads, c = e % kChannels;
      if (e / kChannels < there && c < channels) {
        put(to + (token + e / kChannels) * call.d + first_channel + c, from[e / kChannels][c]);
      }
    }
  }

  __device__ void forward() {
    use_base_two();
    first_state();
    Numbers next;
    load(0, next);
    const int chunks = call.chunks();
    for (int n = 0; n < chunks; ++n) {
      Chunk& z = s.chunk[n % 2];
      put_numbers(z, next);
      __syncthreads();
      load(n + 1, next);
      if constexpr (!kReads) {
        store_state(call.states, static_cast<int64_t>(row) * chunks + n);
      }
      [[maybe_unused]] float y[kTokens];
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        step(z, i);
        if constexpr (kReads) {
          const float4 c = of_elements(z.c[i]);
          y[i] = h[0] * c.x + h[1] * c.y + (h[2] * c.z + h[3] * c.w);
        }
      }
      if constexpr (kReads) {
        // Behind all loads of the chunk: none could pass a store.
        const int first = sum_parts(y);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          s.out[0][first + i][own_channel] = y[i];
        }
        __syncthreads();
        store_rows(call.y, s.out[0], n);
      }
    }
    if constexpr (kReads) {
      store_state(call.sT, row);
    }
  }

  __device__ void backward() {
    float true_rate[kOwn], dh[kOwn], da[kOwn] = {};
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      true_rate[k] = rate[k];
      dh[k] = call.gsT && has(k) ? call.gsT[state_at(row, k)] : 0.f;
    }
    use_base_two();
    Numbers next;
    const int chunks = call.chunks();
    load(chunks - 1, next);
    for (int n = chunks - 1; n >= 0; --n) {
      Chunk& z = s.chunk[n % 2];
      put_numbers(z, next);
      __syncthreads();
      load(n - 1, next);
      float before[kOwn], after[kTokens][kOwn];
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        const int64_t at = state_at(static_cast<int64_t>(row) * chunks + n, k);
        before[k] = h[k] = has(k) ? call.states[at] : 0.f;
      }
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        step(z, i);
#pragma unroll
        for (int k = 0; k < kOwn; ++k) {
          after[i][k] = h[k];
        }
      }
#pragma unroll
      for (int i = kTokens - 1; i >= 0; --i) {
        gradients(z, i, i > 0 ? after[i > 0 ? i - 1 : 0] : before, after[i], true_rate, dh, da);
      }
      __syncthreads();
      store_rows(call.dx, s.out[0], n);
      store_rows(call.ddt, s.out[1], n);
      store_sums(n);
    }
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      h[k] = dh[k];
    }
    store_state(call.ds0, row);
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      h[k] = da[k];
    }
    store_state(call.da, row);
  }
  /// Of token i; dh becomes that of the state before it.
  __device__ void gradients(const Chunk& z, int i, const float (&last)[kOwn],
                            const float (&now)[kOwn], const float (&true_rate)[kOwn],
                            float (&dh)[kOwn], float (&da)[kOwn]) {
    const float dt = z.dt[i][own_channel], x = z.x[i][own_channel], gy = z.gy[i][own_channel];
    const float4 b = of_elements(z.b[i]), c = of_elements(z.c[i]);
    const float bs[] = {b.x, b.y, b.z, b.w}, cs[] = {c.x, c.y, c.z, c.w};
    const bool from_zero = z.begins[i] != 0;  // then `last` counts for nothing, also if not finite
    float sums[2 * kOwn], through_all = 0, written = 0;  // sums: db, dc
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      dh[k] = fmaf(gy, cs[k], dh[k]);
      sums[k] = dh[k] * dt * x;
      sums[kOwn + k] = gy * now[k];
      written = fmaf(dh[k], bs[k], written);
      const float kept = from_zero ? 0.f : dh[k] * decay(dt, k);
      const float through = kept * (from_zero ? 0.f : last[k]);
      through_all = fmaf(true_rate[k], through, through_all);
      da[k] = fmaf(dt, through, da[k]);
      dh[k] = kept;
    }
    written = all_parts(written);
    through_all = all_parts(through_all);
    if (threadIdx.x % kParts == 0) {
      s.out[0][i][own_channel] = dt * written;
      s.out[1][i][own_channel] = through_all + x * written;
    }
    put_sums(i, sums);
  }
  /// Sums over the 8 channels of a warp: lanes kParts apart; halves change hands.
  __device__ void put_sums(int i, float (&x)[2 * kOwn]) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    int index = 0;
#pragma unroll
    for (int step = 16, left = 8; step >= kParts; step /= 2) {
      left /= 2;
      const bool upper = (lane & step) != 0;
      index += upper ? left : 0;
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        if (n < left) {
          const float give = upper ? x[n] : x[n + left], keep = upper ? x[n + left] : x[n];
          x[n] = keep + __shfl_xor_sync(0xffffffffu, give, step);
        }
      }
    }
    s.sums[warp][i][index / kOwn * kElements + element + index % kOwn] = x[0];
  }
  __device__ void store_sums(int chunk) const {
    const int tile = static_cast<int>(blockIdx.x) % call.tiles(), there = count(chunk);
    const int64_t all = static_cast<int64_t>(call.rows) * call.tokens;
    const int64_t token = static_cast<int64_t>(row) * call.tokens + chunk * kTokens;
    for (int e = static_cast<int>(threadIdx.x); e < kTokens * 2 * kElements; e += kThreads) {
      const int i = e / (2 * kElements), n = e % (2 * kElements), k = n % kElements;
      if (i < there && k < call.s) {
        const float sum = (s.sums[0][i][n] + s.sums[1][i][n]) + (s.sums[2][i][n] + s.sums[3][i][n]);
        float* const to = n < kElements ? call.db : call.dc;
        to[((tile * all + token + i) * call.groups + group) * call.s + k] = sum;
      }
    }
  }
};

template <class E, Pass kPass>
__global__ void __launch_bounds__(kThreads, kPass == Pass::kGradients ? 3 : 4)
    walk_kernel(const __grid_constant__ Call<E> call) {
  __shared__ typename Walk<E, kPass>::Shared shared;
  Walk<E, kPass> walk(call, shared);
  if constexpr (kPass == Pass::kGradients) {
    walk.backward();
  } else {
    walk.forward();
  }
}

/// As a kernel of selective_scan: states of at most 16 elements, of the rows.
template <class T>
class Registers {
 public:
  using Op = SelectiveScan;
  using E = Element<T>;

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    report_form<Op>("recurrent");
    cuda::Machine memory;
    Call<E> call = call_of(memory, in);
    call.y = elements(out.y);
    call.sT = common::elements<float>(out.sT);
    launch<Pass::kOutputs>(call);
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    cuda::Machine memory;
    Call<E> call = call_of(memory, in);
    const Index states = Index{call.d} * call.s, rows = call.rows;
    const Index narrow = rows * call.tokens * call.groups * call.s;
    common::take(memory, rows * call.chunks() * states, call.states);
    launch<Pass::kStates>(call);
    call.gy = elements(dout.y);
    call.gsT = common::elements<float>(dout.sT);
    call.dx = elements(din.x);
    call.ddt = common::elements<float>(din.dt);
    call.ds0 = common::elements<float>(din.s0);
    common::take(memory, call.tiles() * narrow, call.db, call.dc);
    common::take(memory, rows * states, call.da);
    launch<Pass::kGradients>(call);
    sum(memory, call.db, call.tiles(), common::elements<T>(din.b), narrow);
    sum(memory, call.dc, call.tiles(), common::elements<T>(din.c), narrow);
    sum(memory, call.da, rows, common::elements<float>(din.a), states);
  }
  static bool fits(const Op::In<ShapeOf>& in, const Op::Attrs&, int) {
    const Index rows = in.x.size(0), tokens = in.x.size(1);
    return !cuda::portable_only() && rows > 0 && rows < 65536 && tokens > 0 &&
           rows * tokens < (1 << 30) && in.x.size(2) > 0 && in.a.size(1) > 0 &&
           in.a.size(1) <= kElements && (!in.s0.defined() || in.s0.size(0) == rows);
  }

 private:
  static const E* elements(const TensorView& x) {
    return x.defined() ? static_cast<const E*>(x.raw()) : nullptr;
  }
  static E* elements(TensorView& x) { return x.defined() ? static_cast<E*>(x.raw()) : nullptr; }
  template <class To>
  static void sum(cuda::Machine& memory, const float* from, Index parts, To* to, Index size) {
    if (to) {
      const PartsCall<float, To> c{from, to, parts, size};
      memory.launch<SumParts<float, To>>({common::blocks_of(size, common::kThreads), 1, 1}, c);
    }
  }
  static Call<E> call_of(cuda::Machine& memory, const Op::In<TensorView>& in) {
    const auto n = [](Index x) { return static_cast<int>(x); };
    Call<E> call;
    call.rows = n(in.x.size(0));
    call.tokens = n(in.x.size(1));
    call.d = n(in.x.size(2));
    call.s = n(in.a.size(1));
    call.groups = n(in.b.size(2));
    common::StretchTable table("selective_scan", in.x.size(0), in.x.size(1), in.offsets, 0);
    call.begins = common::mark_documents(memory, table);
    call.x = elements(in.x);
    call.b = elements(in.b);
    call.c = elements(in.c);
    call.dt = common::elements<float>(in.dt);
    call.a = common::elements<float>(in.a);
    call.s0 = common::elements<float>(in.s0);
    return call;
  }
  template <Pass kPass>
  static void launch(const Call<E>& call) {
    const dim3 blocks(static_cast<unsigned>(call.groups * call.tiles()),
                      static_cast<unsigned>(call.rows));
    cuda::launch(&walk_kernel<E, kPass>, blocks, dim3(kThreads), 0, call);
  }
};

}  // namespace ls::ops::selective_scan::walk
