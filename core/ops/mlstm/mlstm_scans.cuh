#pragma once
// The matrix LSTM on sm_90a, bf16, by the scans of core/ops/common/scalar_gate_scan.h: what stands
// beside them. With m from a walk over the tokens, keys have the weights exp(i - m) and states
// decay by exp(f + m' - m). [rows] is [B,T,H], a chain a row of the batch and head.
#include <cuda_bf16.h>

#include <cstdint>

#include "core/backend/cuda/launch.h"

namespace ls::ops::mlstm::scans {

using Element = __nv_bfloat16;

inline constexpr int kWalkThreads = 256;
inline constexpr float kLeastGate = -110;  ///< its exponential is 0 in f32

/// Both walks over the tokens: the running maxima, and backward what goes through them.
struct Walk {
  int batch = 0, tokens = 0, heads = 0;
  const float *i = nullptr, *f = nullptr, *m0 = nullptr;  ///< m0 [B,H]
  const unsigned char* begins = nullptr;                  ///< [B,T]: a document does here; or null
  bool stabilize = true;
  float *m = nullptr, *kept = nullptr, *written = nullptr, *mT = nullptr;
  __device__ int64_t at(int b, int t, int h) const {
    return (static_cast<int64_t>(b) * tokens + t) * heads + h;
  }
  __device__ float first(int chain) const { return m0 ? m0[chain] : 0.f; }
  /// Token t starts from nothing.
  __device__ bool fresh(int b, int t) const {
    return begins && t > 0 && t < tokens && begins[static_cast<int64_t>(b) * tokens + t];
  }
};

/// x -> max(x + add, least).
struct Rise {
  float add = 0, least = -INFINITY;
  __device__ float of(float x) const { return fmaxf(x + add, least); }
  /// This one, then the next.
  __device__ Rise then(const Rise& next) const { return {add + next.add, next.of(least)}; }
  __device__ Rise from_lane(int step) const {
    return {__shfl_up_sync(0xffffffffu, add, step), __shfl_up_sync(0xffffffffu, least, step)};
  }
};
/// x -> add + (keeps ? x : 0).
struct Pass {
  float add = 0, keeps = 1;
  __device__ float of(float x) const { return keeps * x + add; }
  __device__ Pass then(const Pass& next) const { return {next.of(add), keeps * next.keeps}; }
  __device__ Pass from_lane(int step) const {
    return {__shfl_up_sync(0xffffffffu, add, step), __shfl_up_sync(0xffffffffu, keeps, step)};
  }
};
/// What the threads before this one make together, in their order.
template <class Map>
__device__ Map all_before(Map own) {
  __shared__ float parts[2 * kWalkThreads / 32];
  auto* const of_warp = reinterpret_cast<Map*>(parts);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const Map before = own.from_lane(step);
    own = lane >= step ? before.then(own) : own;
  }
  __syncthreads();
  if (lane == 31) {
    of_warp[warp] = own;
  }
  Map before = own.from_lane(1);
  before = lane > 0 ? before : Map();
  __syncthreads();
  Map all;
  for (int w = 0; w < warp; ++w) {
    all = all.then(of_warp[w]);
  }
  return all.then(before);
}

/// Running maxima and gates; a block is a chain, a thread some neighbouring tokens.
static __global__ void __launch_bounds__(kWalkThreads) walk_kernel(const Walk w) {
  const int h = static_cast<int>(blockIdx.x) % w.heads, b = static_cast<int>(blockIdx.x) / w.heads;
  const int each = (w.tokens + kWalkThreads - 1) / kWalkThreads;
  const int begin = min(w.tokens, static_cast<int>(threadIdx.x) * each);
  const int end = min(w.tokens, begin + each);
  const float first = w.first(static_cast<int>(blockIdx.x));  // mT may be the same memory
  Rise own;
#pragma unroll 8
  for (int t = begin; t < end; ++t) {
    const Rise step{w.f[w.at(b, t, h)], w.i[w.at(b, t, h)]};
    own = w.fresh(b, t) ? Rise{-INFINITY, step.of(0)} : own.then(step);
  }
  float m = all_before(own).of(first);
  m = w.stabilize ? m : 0.f;
#pragma unroll 4
  for (int t = begin; t < end; ++t) {
    const int64_t at = w.at(b, t, h);
    const float in = w.i[at], forget = w.f[at];
    m = w.fresh(b, t) ? 0.f : m;
    const float next = w.stabilize ? fmaxf(forget + m, in) : 0.f;
    w.m[at] = next;
    w.kept[at] = fmaxf(forget + (m - next), kLeastGate);
    w.written[at] = in - next;
    m = next;
    if (w.mT && t == w.tokens - 1) {
      w.mT[blockIdx.x] = next;
    }
  }
}

/// Gradients of gates and of the first m, from what the scans make of them with the true states
/// held: dkept, dwritten. What depends on m besides goes backwards through the maxima (NOTES.md).
struct WalkBack {
  Walk walk;
  const float* direct = nullptr;  ///< [rows] gradient of m with the true states held; or null: 0
  const float *dkept = nullptr, *dwritten = nullptr;
  const float *last = nullptr, *gmT = nullptr;  ///< [chains] <c, dc> + <n, dn>; both or null: 0
  const float* start = nullptr;                 ///< the same of the first states
  float *di = nullptr, *df = nullptr, *dm0 = nullptr;  ///< or null
};
static __global__ void __launch_bounds__(kWalkThreads) walk_back_kernel(const WalkBack w) {
  const Walk& z = w.walk;
  const int chain = static_cast<int>(blockIdx.x), h = chain % z.heads, b = chain / z.heads;
  const int each = (z.tokens + kWalkThreads - 1) / kWalkThreads;
  // Threads in order hold tokens from the last one on.
  const int end = max(0, z.tokens - static_cast<int>(threadIdx.x) * each);
  const int begin = max(0, end - each);
  const auto before = [&](int t) {
    return t == 0 ? z.first(chain) : z.fresh(b, t) ? 0.f : z.m[z.at(b, t - 1, h)];
  };
  const auto from_input = [&](int t) {
    const int64_t at = z.at(b, t, h);
    return z.i[at] > z.f[at] + before(t);
  };
  const auto direct = [&](int t) { return w.direct ? w.direct[z.at(b, t, h)] : 0.f; };
  Pass own;
  for (int t = end - 1; t >= begin; --t) {
    const bool stays = from_input(t) || z.fresh(b, t);
    own = own.then(stays ? Pass{0, 0} : Pass{direct(t), 1});
  }
  const float last = (w.gmT ? w.gmT[chain] : 0.f) - (w.last ? w.last[chain] : 0.f);
  float dm = all_before(own).of(last);
  for (int t = end - 1; t >= begin; --t) {
    const int64_t at = z.at(b, t, h);
    const bool input = from_input(t);
    dm = z.stabilize ? dm + direct(t) : 0.f;
    if (w.di) {
      w.di[at] = w.dwritten[at] + (input ? dm : 0.f);
    }
    if (w.df) {
      w.df[at] = w.dkept[at] + (input ? 0.f : dm);
    }
    dm = input || z.fresh(b, t) ? 0.f : dm;
    if (w.dm0 && t == 0) {
      w.dm0[chain] = dm + (w.start ? w.start[chain] : 0.f);
    }
  }
}

/// Of the gradients of o [rows,dv]: below = under (go . o), the gradient of d, and of m where eps
/// lets it count, -eps over (go . o). 16 lanes a row; o is what was stored of it and the rest.
struct Below {
  int64_t rows = 0;
  int dv = 0;
  float eps = 0;
  const Element *go = nullptr, *o = nullptr, *o_rest = nullptr;
  const float *over = nullptr, *under = nullptr;
  float *below = nullptr, *direct = nullptr;  ///< direct: or null
};
__device__ __forceinline__ float dot_pair(uint32_t go, uint32_t o, uint32_t rest) {
  const auto low = [](uint32_t x) { return __uint_as_float(x << 16); };
  const auto high = [](uint32_t x) { return __uint_as_float(x & 0xffff0000u); };
  return low(go) * (low(o) + low(rest)) + high(go) * (high(o) + high(rest));
}
static __global__ void __launch_bounds__(256) below_kernel(const Below x) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 16 + threadIdx.x / 16;
  float sum = 0;
  const int c = static_cast<int>(threadIdx.x) % 16 * 8;
  if (row < x.rows && c < x.dv) {
    const int64_t at = row * x.dv + c;
    const uint4 go = *reinterpret_cast<const uint4*>(x.go + at);
    const uint4 o = *reinterpret_cast<const uint4*>(x.o + at);
    const uint4 rest = *reinterpret_cast<const uint4*>(x.o_rest + at);
    sum = dot_pair(go.x, o.x, rest.x) + dot_pair(go.y, o.y, rest.y) + dot_pair(go.z, o.z, rest.z) +
          dot_pair(go.w, o.w, rest.w);
  }
#pragma unroll
  for (int step = 1; step < 16; step *= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, step);
  }
  if (row < x.rows && c == 0) {
    x.below[row] = x.under[row] * sum;
    if (x.direct) {
      x.direct[row] = -x.eps * x.over[row] * sum;
    }
  }
}

/// to [chains] = <c, dc> + <n, dn>, those that there are; a block a chain.
struct DotStates {
  int dk = 0, dv = 0;
  const float *c = nullptr, *dc = nullptr, *n = nullptr, *dn = nullptr;
  float* to = nullptr;
};
static __global__ void __launch_bounds__(256) dot_states_kernel(const DotStates x) {
  __shared__ float parts[8];
  const int64_t chain = blockIdx.x, size = int64_t{1} * x.dk * x.dv;
  float sum = 0;
  if (x.c && x.dc) {
    for (int64_t e = threadIdx.x; e < size; e += 256) {
      sum += x.c[chain * size + e] * x.dc[chain * size + e];
    }
  }
  if (x.n && x.dn && static_cast<int>(threadIdx.x) < x.dk) {
    sum += x.n[chain * x.dk + threadIdx.x] * x.dn[chain * x.dk + threadIdx.x];
  }
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, step);
  }
  if (threadIdx.x % 32 == 0) {
    parts[threadIdx.x / 32] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    float all = 0;
    for (const float part : parts) {
      all += part;
    }
    x.to[chain] = all;
  }
}

}  // namespace ls::ops::mlstm::scans
