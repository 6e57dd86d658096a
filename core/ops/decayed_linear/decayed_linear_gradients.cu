// Gradients of decayed linear attention, chunk by chunk, from the states S before each chunk and
// the gradients dS of the states after it (decayed_linear_states.cu). A persistent CTA takes chunks
// of 64 tokens one after the other; the next one's tiles arrive meanwhile.
//   warpgroup 0  dQ = scale exp(G) (dO S^T) + dP K        dP = scale exp(G_t - G_s) (dO V^T)
//   warpgroup 1  dK = exp(G_C - G) (V dS^T) + dP^T Q
//   warpgroup 2  dV = exp(G_C - G) (K dS) + P^T dO        P = scale exp(G_t - G_s) (Q K^T)
//   warpgroup 3  a warp each for loads, gates, the gate's gradient
// Each forms the scores it needs in the layout that it needs, so warpgroups exchange nothing but
// the terms of the gate's gradient: with x_t = q_t dq_t - k_t dk_t in f32,
//   dg_t = exp(G_C) <S, dS> + sum_s k_s (V dS^T)_s exp(G_C - G_s) + sum_{t' >= t} x_t'
// where pairs within the chunk cancel exactly, since both warpgroups round dP alike.
// Moves q, k, v, dO and both states in and dq, dk, dv out once: 2816 bytes a token and head.
#include "core/ops/decayed_linear/decayed_linear_hopper.cuh"

namespace ls::kernels::decayed_linear {
namespace {

using namespace ls::cuda;

struct alignas(1024) Stage {
  unsigned char q[2 * kTile], k[2 * kTile], v[2 * kTile], go[2 * kTile];
};
struct GateTerms {
  float q[64], k[64];           // q_t dq_t, k_t dk_t
  float written[4], passed[4];  // a warp each: k_s dk_s from dS; <S, dS>
};
struct Shared {
  Stage stage[2];
  alignas(1024) unsigned char state[kStateBytes], dstate[kStateBytes];
  alignas(1024) unsigned char out[3][kTile];
  ScalarGates gates[2];
  GateTerms terms[2];
  Mbarrier full[2], free[2];
  Mbarrier state_full, state_free;
  Mbarrier terms_full[2], terms_free[2];
};

struct Arguments {
  GateSource gates;
  const unsigned char *states, *dstates;
  float* dg;
  int heads, chunks;
  int64_t count;  // chunks of all chains
  float scale;
};

/// Heads of the same tokens follow each other.
struct Place {
  int head, chunk, b;
  int64_t record;
  __device__ Place(const Arguments& args, int64_t i) {
    head = static_cast<int>(i % args.heads);
    i /= args.heads;
    chunk = static_cast<int>(i % args.chunks);
    b = static_cast<int>(i / args.chunks);
    record = (static_cast<int64_t>(b) * args.heads + head) * args.chunks + chunk;
  }
};

/// Rows 16 warp.. of a tile pair [64][128] times the sums d, by row: sums over a quad of lanes.
__device__ __forceinline__ float2 dot_rows(const float (&d)[64], const unsigned char* tiles,
                                           int warp, int lane) {
  float2 sum = make_float2(0, 0);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    uint32_t x[4];
    load_matrices(x,
                  block_address(smem_addr(tiles) + j / 4 * kTile, 16 * warp, 16 * (j % 4), lane));
#pragma unroll
    for (int m = 0; m < 4; m += 2) {
      sum.x += d[8 * j + 2 * m] * low_bf16(x[m]) + d[8 * j + 2 * m + 1] * high_bf16(x[m]);
      sum.y +=
          d[8 * j + 2 * m + 2] * low_bf16(x[m + 1]) + d[8 * j + 2 * m + 3] * high_bf16(x[m + 1]);
    }
  }
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    sum.x += __shfl_xor_sync(0xffffffffu, sum.x, step);
    sum.y += __shfl_xor_sync(0xffffffffu, sum.y, step);
  }
  return sum;
}

__device__ __forceinline__ void scale_rows(float (&d)[64], const float (&by)[64], int warp,
                                           int lane) {
  const float x = by[16 * warp + lane / 4], y = by[16 * warp + lane / 4 + 8];
#pragma unroll
  for (int i = 0; i < 64; i += 4) {
    d[i] *= x;
    d[i + 1] *= x;
    d[i + 2] *= y;
    d[i + 3] *= y;
  }
}

/// d to a [64][128] box by way of one tile, a half after the other.
template <int kBarrier>
__device__ __forceinline__ void store_rows(const float (&d)[64], unsigned char* tile,
                                           const CUtensorMap& map, const Place& at, int warp,
                                           int lane) {
  const bool issues = warp == 0 && lane == 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (issues) {
      wait_stores_read<0>();
    }
    named_sync(kBarrier, 128);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* x = d + 32 * half + 8 * i;
      store_matrices(block_address(smem_addr(tile), 16 * warp, 16 * i, lane), pack_bf16(x[0], x[1]),
                     pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
    }
    fence_proxy_async();
    named_sync(kBarrier, 128);
    if (issues) {
      store_box(&map, tile, 64 * half, at.head, 64 * at.chunk, at.b);
      commit_stores();
    }
  }
}

/// d += a b: a operands of 64 tokens, b [64 tokens][128] in two tiles.
__device__ __forceinline__ void add_scores(float (&d)[64], uint32_t (&a)[4][4],
                                           const unsigned char* b) {
  const uint64_t y = wgmma::columns(smem_addr(b), kTile);
  wgmma::hold(d);
  wgmma::hold(a);
  wgmma::fence_sums();
  wgmma::multiply_steps<Depth::kColumns>(d, a, y, true);
  wgmma::commit();
  wgmma::wait<0>();
  wgmma::hold(d);
}

/// 0: dQ, 1: dK, 2: dV.
template <int kRole>
__device__ __forceinline__ void run_role(Shared& s, const CUtensorMap& out, const Arguments& args,
                                         int warp, int lane) {
  const int row = 16 * warp + lane / 4;
  int n = 0;
  for (int64_t i = blockIdx.x; i < args.count; i += gridDim.x, ++n) {
    const Place at(args, i);
    const Stage& z = s.stage[n % 2];
    const ScalarGates& gates = s.gates[n % 2];
    GateTerms& terms = s.terms[n % 2];
    float score[32], d[64];
    uint32_t p[4][4];
    s.full[n % 2].wait(this_turn<2>(n));
    const unsigned char* const a = kRole == 0 ? z.go : kRole == 1 ? z.v : z.k;
    const unsigned char* const b = kRole == 0 ? z.v : kRole == 1 ? z.go : z.q;
    wgmma::fence_sums();
    multiply_rows(score, a, b);
    wgmma::commit();
    s.state_full.wait(n & 1);
    // What the states bring: A is the same as of the scores.
    {
      const uint64_t x = wgmma::rows(smem_addr(a));
      wgmma::fence_sums();
      if constexpr (kRole < 2) {
        const uint64_t y = wgmma::columns(smem_addr(kRole == 0 ? s.state : s.dstate), 2 * kTile);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          wgmma::multiply<128, Depth::kRows, Depth::kColumns>(d, wgmma::step_rows(x, j),
                                                              wgmma::step_columns(y, j), j > 0);
        }
      } else {
        const uint64_t y = wgmma::rows(smem_addr(s.dstate));
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          wgmma::multiply<128, Depth::kRows, Depth::kRows>(d, wgmma::step_rows(x, j),
                                                           wgmma::step_rows<128>(y, j), j > 0);
        }
      }
      wgmma::commit();
    }
    float passed = 0;
    if constexpr (kRole == 2) {
      const auto* x = reinterpret_cast<const uint4*>(s.state) + threadIdx.x % 128;
      const auto* y = reinterpret_cast<const uint4*>(s.dstate) + threadIdx.x % 128;
#pragma unroll 4
      for (int j = 0; j < kStateBytes / 16; j += 128) {
        const uint4 e = x[j], f = y[j];
        passed += low_bf16(e.x) * low_bf16(f.x) + high_bf16(e.x) * high_bf16(f.x) +
                  low_bf16(e.y) * low_bf16(f.y) + high_bf16(e.y) * high_bf16(f.y) +
                  low_bf16(e.z) * low_bf16(f.z) + high_bf16(e.z) * high_bf16(f.z) +
                  low_bf16(e.w) * low_bf16(f.w) + high_bf16(e.w) * high_bf16(f.w);
      }
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        passed += __shfl_xor_sync(0xffffffffu, passed, step);
      }
    }
    wgmma::wait<1>();
    wgmma::hold(score);
    if constexpr (kRole == 0) {
      gate_scores<false>(p, score, gates, args.scale, warp, lane);
    } else {
      gate_scores<true>(p, score, gates, args.scale, warp, lane);
    }
    wgmma::wait<0>();
    wgmma::hold(d);
    __syncwarp();
    if (lane == 0) {
      s.state_free.arrive();
    }
    scale_rows(d, kRole == 0 ? gates.read : gates.end, warp, lane);
    if (n >= 2) {
      s.terms_free[n % 2].wait(last_turn<2>(n));
    }
    if constexpr (kRole == 0) {
      add_scores(d, p, z.k);
      const float2 x = dot_rows(d, z.q, warp, lane);
      if (lane % 4 == 0) {
        terms.q[row] = x.x;
        terms.q[row + 8] = x.y;
      }
    } else if constexpr (kRole == 1) {
      const float2 w = dot_rows(d, z.k, warp, lane);
      float written = lane % 4 == 0 ? w.x + w.y : 0.f;
#pragma unroll
      for (int step = 4; step < 32; step *= 2) {
        written += __shfl_xor_sync(0xffffffffu, written, step);
      }
      add_scores(d, p, z.q);
      const float2 x = dot_rows(d, z.k, warp, lane);
      if (lane % 4 == 0) {
        terms.k[row] = x.x;
        terms.k[row + 8] = x.y;
      }
      if (lane == 0) {
        terms.written[warp] = written;
      }
    } else {
      add_scores(d, p, z.go);
      if (lane == 0) {
        terms.passed[warp] = passed;
      }
    }
    __syncwarp();
    if (lane == 0) {
      s.terms_full[n % 2].arrive();
      s.free[n % 2].arrive();
    }
    store_rows<1 + kRole>(d, s.out[kRole], out, at, warp, lane);
  }
  if (warp == 0 && lane == 0) {
    wait_stores<0>();
  }
}

__global__ void __launch_bounds__(512, 1)
    gradients_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                     const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap go,
                     const __grid_constant__ CUtensorMap dq, const __grid_constant__ CUtensorMap dk,
                     const __grid_constant__ CUtensorMap dv, const Arguments args) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& s = *reinterpret_cast<Shared*>(memory);
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      s.full[i].init(2);
      s.free[i].init(13);
      s.terms_full[i].init(12);
      s.terms_free[i].init(1);
    }
    s.state_full.init(1);
    s.state_free.init(12);
    fence_barrier_init();
  }
  __syncthreads();
  launch_dependents();
  wait_for_previous_grid();
  if (warpgroup == 3) {
    fewer_registers<32>();
    if (warp == 0) {
      if (elect_one()) {
        int n = 0;
        for (int64_t i = blockIdx.x; i < args.count; i += gridDim.x, ++n) {
          const Place at(args, i);
          Stage& to = s.stage[n % 2];
          Mbarrier& full = s.full[n % 2];
          if (n >= 2) {
            s.free[n % 2].wait(last_turn<2>(n));
          }
          full.arrive_expect(sizeof(Stage));
          for (int half = 0; half < 2; ++half) {
            const int c = 64 * half, t = 64 * at.chunk, tile = half * kTile;
            load_box(to.go + tile, &go, full, c, at.head, t, at.b);
            load_box(to.v + tile, &v, full, c, at.head, t, at.b);
            load_box(to.q + tile, &q, full, c, at.head, t, at.b);
            load_box(to.k + tile, &k, full, c, at.head, t, at.b);
          }
          if (n >= 1) {
            s.state_free.wait((n - 1) & 1);
          }
          s.state_full.arrive_expect(2 * kStateBytes);
          load_bytes(s.state, args.states + at.record * kStateBytes, kStateBytes, s.state_full);
          load_bytes(s.dstate, args.dstates + at.record * kStateBytes, kStateBytes, s.state_full);
        }
      }
    } else if (warp == 1) {
      int n = 0;
      float g0 = 0, g1 = 0;
      const auto read = [&](int64_t i) {
        const Place at(args, i);
        g0 = args.gates.at(at.b, 64 * at.chunk + 2 * lane, at.head);
        g1 = args.gates.at(at.b, 64 * at.chunk + 2 * lane + 1, at.head);
      };
      if (blockIdx.x < args.count) {
        read(blockIdx.x);
      }
      for (int64_t i = blockIdx.x; i < args.count; i += gridDim.x, ++n) {
        const float x0 = g0, x1 = g1;
        if (i + gridDim.x < args.count) {
          read(i + gridDim.x);
        }
        if (n >= 2) {
          s.free[n % 2].wait(last_turn<2>(n));
        }
        write_gates(s.gates[n % 2], x0, x1, args.scale, lane);
        __syncwarp();
        if (lane == 0) {
          s.full[n % 2].arrive();
        }
      }
    } else if (warp == 2) {
      int n = 0;
      for (int64_t i = blockIdx.x; i < args.count; i += gridDim.x, ++n) {
        const Place at(args, i);
        s.terms_full[n % 2].wait(this_turn<2>(n));
        const GateTerms& z = s.terms[n % 2];
        const float2 xq = reinterpret_cast<const float2*>(z.q)[lane];
        const float2 xk = reinterpret_cast<const float2*>(z.k)[lane];
        const float written = z.written[0] + z.written[1] + z.written[2] + z.written[3];
        const float passed = z.passed[0] + z.passed[1] + z.passed[2] + z.passed[3];
        const float through = s.gates[n % 2].all * passed + written;
        __syncwarp();
        if (lane == 0) {
          s.terms_free[n % 2].arrive();
          s.free[n % 2].arrive();
        }
        const float x0 = xq.x - xk.x, x1 = xq.y - xk.y;
        float sum = x0 + x1;  // from this lane's first token to the end
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
          const float after = __shfl_down_sync(0xffffffffu, sum, step);
          sum += lane + step < 32 ? after : 0.f;
        }
        if (args.dg) {
          const int t = 64 * at.chunk + 2 * lane;
          float* const to =
              args.dg + (static_cast<int64_t>(at.b) * args.gates.tokens + t) * args.heads + at.head;
          if (t < args.gates.tokens) {
            to[0] = through + sum;
          }
          if (t + 1 < args.gates.tokens) {
            to[args.heads] = through + sum - x0;
          }
        }
      }
    }
  } else if (warpgroup == 0) {
    more_registers<160>();
    run_role<0>(s, dq, args, warp, lane);
  } else if (warpgroup == 1) {
    more_registers<160>();
    run_role<1>(s, dk, args, warp, lane);
  } else {
    more_registers<160>();
    run_role<2>(s, dv, args, warp, lane);
  }
#endif
}

}  // namespace

cudaError_t decayed_linear_gradients(const LinearSizes& z, const LinearInputs& in, const bf16* go,
                                     const void* workspace, const LinearGradients& out,
                                     cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared);
  static_assert(kBytes <= 227 * 1024);
  static const cudaError_t allowed = allow_shared(&gradients_kernel, kBytes);
  int processors = 0;
  if (const cudaError_t e = processor_count(&processors)) return e;
  if (allowed != cudaSuccess) {
    return allowed;
  }
  CUtensorMap maps[7];
  const void* const tensors[] = {in.q, in.k, in.v, go, out.q, out.k, out.v};
  for (int i = 0; i < 7; ++i) {
    if (const cudaError_t e = encode_rows(&maps[i], tensors[i], z.batch, z.tokens, z.heads, 128)) {
      return e;
    }
  }
  const auto* images = static_cast<const unsigned char*>(workspace);
  const auto count = static_cast<int64_t>(z.records());
  const Arguments args{{in.g, in.decay, z.tokens, z.heads},
                       images,
                       images + z.records() * kStateBytes,
                       out.g,
                       z.heads,
                       z.chunks(),
                       count,
                       z.scale};
  const int64_t blocks = count < processors ? count : processors;
  return launch_behind(&gradients_kernel, blocks, 512, kBytes, stream, maps[0], maps[1], maps[2],
                       maps[3], maps[4], maps[5], maps[6], args);
}

cudaError_t decayed_linear_backward(const LinearSizes& sizes, const LinearInputs& in,
                                    const bf16* go, const float* gs_end, void* workspace,
                                    const LinearGradients& out, cudaStream_t stream) {
  if (!sizes.valid()) {
    return cudaErrorInvalidValue;
  }
  const cudaError_t e = decayed_linear_states(sizes, in, go, gs_end, workspace, out.s0, stream);
  return e ? e : decayed_linear_gradients(sizes, in, go, workspace, out, stream);
}

}  // namespace ls::kernels::decayed_linear
