#pragma once
// Nonlinear cells whose recurrent weights fit no single processor: every block keeps the weights of
// some units of a head and all batch rows, and the blocks of a head meet once a token. f32 products
// and sums. Blocks are launched together (cooperatively), so that none waits for one that is not
// there.
#include "core/backend/cuda/launch.h"
#include "core/ops/common/cell_blocks.h"

namespace ls::ops::common {

inline constexpr int kGridThreads = 256;
inline constexpr int kGridRows = 16;    ///< batch rows that are worked on together
inline constexpr int kMostUnits = 8;    ///< of a block
inline constexpr int kDepthStep = 128;  ///< four elements a lane
inline constexpr Index kMostDepth = 1024;

/// How the units of all heads are dealt out.
struct CellGrid {
  int heads = 0, d = 0, batch = 0, tokens = 0;
  int units = 0;                ///< of a block
  int blocks = 0;               ///< of a head
  int depth = 0;                ///< d, filled up with zeros to whole steps
  unsigned* arrived = nullptr;  ///< [heads], zero before

  /// No units where the cell does not fit.
  template <class Shape>
  static CellGrid of(const Shape& s, int processors) {
    CellGrid g;
    g.heads = static_cast<int>(s.heads);
    g.d = static_cast<int>(s.d);
    g.batch = static_cast<int>(s.batch);
    g.tokens = static_cast<int>(s.tokens);
    g.depth = (g.d + kDepthStep - 1) / kDepthStep * kDepthStep;
    const bool fits = s.kept() == 0 && s.d % 4 == 0 && s.d <= kMostDepth && s.heads <= processors &&
                      s.batch > 0 && s.batch <= 256 && s.tokens > 0 && !s.sequences.offsets;
    for (int units = 2; fits && g.units == 0 && units <= kMostUnits; units += 2) {
      const int blocks = (g.d + units - 1) / units;
      if (blocks * g.heads <= processors) {
        g.units = units;
        g.blocks = blocks;
      }
    }
    return g;
  }
  __device__ int head() const { return static_cast<int>(blockIdx.x) / blocks; }
  __device__ int first_unit() const { return static_cast<int>(blockIdx.x) % blocks * units; }
};

/// Until all blocks of the head have come `times` times.
__device__ __forceinline__ void meet(const CellGrid& g, unsigned times) {
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned* const arrived = g.arrived + g.head();
    __threadfence();
    atomicAdd(arrived, 1u);
    const unsigned all = times * static_cast<unsigned>(g.blocks);
    unsigned seen = 0;
    while (seen < all) {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(arrived) : "memory");
    }
  }
  __syncthreads();
}

/// x[i] summed over the lanes, each lane a part of N: sum_of_lane(lane, i) is in x[i] for i below
/// kSumsOfLane. Halves change hands as long as there are two equal ones.
template <int N>
__device__ __forceinline__ void sum_lanes(float (&x)[N], int lane) {
  int left = N;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const bool halve = left % 2 == 0;
    left = halve ? left / 2 : left;
    const bool upper = (lane & step) != 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (i < left && halve) {
        const float give = upper ? x[i] : x[i + left], keep = upper ? x[i + left] : x[i];
        x[i] = keep + __shfl_xor_sync(0xffffffffu, give, step);
      } else if (i < left) {
        x[i] += __shfl_xor_sync(0xffffffffu, x[i], step);
      }
    }
  }
}
template <int N, int kSteps = 5>
inline constexpr int kSumsOfLane = kSteps == 0 || N % 2 != 0 ? N : kSumsOfLane<N / 2, kSteps - 1>;
template <int N>
inline constexpr int kSumsOfLane<N, 0> = N;
template <int N>
__device__ __forceinline__ int sum_of_lane(int lane, int i) {
  int index = 0, left = N;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    if (left % 2 == 0) {
      left /= 2;
      index += (lane & step) != 0 ? left : 0;
    }
  }
  return index + i;
}

/// sums += x . w over this lane's four elements of each step: kN rows of w `stride` apart and 8
/// rows that load(row, element) gives as float4.
template <int kN, class Load>
__device__ __forceinline__ void add_products(float (&sums)[8 * kN], const float* w, int stride,
                                             int depth, int lane, Load load) {
#pragma unroll 2
  for (int k = 4 * lane; k < depth; k += kDepthStep) {
    float4 x[8];
#pragma unroll
    for (int b = 0; b < 8; ++b) {
      x[b] = load(b, k);
    }
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float4 y = *reinterpret_cast<const float4*>(w + n * stride + k);
#pragma unroll
      for (int b = 0; b < 8; ++b) {
        float& sum = sums[8 * n + b];
        sum += x[b].x * y.x;
        sum += x[b].y * y.y;
        sum += x[b].z * y.z;
        sum += x[b].w * y.w;
      }
    }
  }
}

/// Shared memory of a block: weights [kGates,units,depth], what they multiply [16,depth] (forward),
/// results [kGates,units,16], then states [units,B] of up to two kinds.
template <int kGates>
struct GridLayout {
  float *weights, *x, *results, *c, *dh;
  __device__ GridLayout(float* memory, const CellGrid& g, bool forward)
      : weights(memory),
        x(weights + kGates * g.units * g.depth),
        results(x + (forward ? kGridRows * g.depth : 0)),
        c(results + kGates * g.units * kGridRows),
        dh(c + g.units * g.batch) {}
  static std::size_t bytes(const CellGrid& g, bool forward) {
    return sizeof(float) * static_cast<std::size_t>(
                               kGates * g.units * g.depth + (forward ? kGridRows * g.depth : 0) +
                               kGates * g.units * kGridRows + 2 * g.units * g.batch);
  }
};
/// f(gate, unit of the head, element of the depth) gives a weight.
template <int kGates, class F>
__device__ __forceinline__ void fill_weights(float* to, const CellGrid& g, F f) {
  const int first = g.first_unit();
  for (int e = static_cast<int>(threadIdx.x); e < kGates * g.units * g.depth; e += kGridThreads) {
    const int k = e % g.depth, unit = e / g.depth % g.units, gate = e / g.depth / g.units;
    to[e] = k < g.d && first + unit < g.d ? f(gate, first + unit, k) : 0.f;
  }
}
/// results[gate, unit, row] of this warp's gate and 8 of 16 rows.
template <int kUnits, class Load>
__device__ __forceinline__ void multiply(const float* weights, float* results, const CellGrid& g,
                                         int gate, int half, int lane, Load load) {
  float sums[8 * kUnits] = {};
  add_products<kUnits>(sums, weights + gate * kUnits * g.depth, g.depth, g.depth, lane, load);
  sum_lanes(sums, lane);
#pragma unroll
  for (int i = 0; i < kSumsOfLane<8 * kUnits>; ++i) {
    const int n = sum_of_lane<8 * kUnits>(lane, i);
    results[(gate * kUnits + n / 8) * kGridRows + 8 * half + n % 8] = sums[i];
  }
}
/// To shared memory [16,depth]: rows b0 and on of `from` [B,width], or zeros where null.
__device__ __forceinline__ void load_rows(float* to, const float* from, const CellGrid& g, int b0) {
  const int width = g.heads * g.d, own = g.head() * g.d;
  for (int e = static_cast<int>(threadIdx.x) * 4; e < kGridRows * g.depth; e += 4 * kGridThreads) {
    const int b = b0 + e / g.depth, k = e % g.depth;
    const bool there = from && b < g.batch && k < g.d;
    *reinterpret_cast<float4*>(to + e) =
        there ? __ldcg(reinterpret_cast<const float4*>(from + b * width + own + k))
              : make_float4(0, 0, 0, 0);
  }
}

/// f.template operator()<units>() with those of the grid.
template <class F>
void with_units(const CellGrid& g, F&& f) {
  switch (g.units) {
    case 2:
      return f.template operator()<2>();
    case 4:
      return f.template operator()<4>();
    case 6:
      return f.template operator()<6>();
    default:
      return f.template operator()<8>();
  }
}

/// Launches kernel<<<heads * blocks>>> so that all blocks are there at once.
template <class... Params, class... Args>
void launch_together(void (*kernel)(Params...), const CellGrid& g, std::size_t shared,
                     const Args&... args) {
  cuda::check(cudaMemsetAsync(g.arrived, 0, sizeof(unsigned) * static_cast<std::size_t>(g.heads),
                              cuda::queue().stream),
              "clearing counts of blocks");
  cuda::check(
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
      "asking for shared memory");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(g.heads * g.blocks));
  config.blockDim = dim3(kGridThreads);
  config.dynamicSmemBytes = shared;
  config.stream = cuda::queue().stream;
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  config.attrs = &together;
  config.numAttrs = 1;
  cuda::check(cudaLaunchKernelEx(&config, kernel, args...), "starting blocks together");
  cuda::launched();
}

}  // namespace ls::ops::common
