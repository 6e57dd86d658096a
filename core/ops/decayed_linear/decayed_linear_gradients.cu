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
#include "core/ops/decayed_linear/decayed_linear_normaliser.cuh"

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
/// kNormal: with a normaliser; operands that were rounded are in two parts, states too, which leave
/// room for one stage.
template <bool kNormal>
struct Shared {
  static constexpr int kStages = kNormal ? 1 : 2, kParts = kNormal ? 2 : 1;
  Stage stage[kStages];
  alignas(1024) unsigned char state[kParts * kStateBytes], dstate[kParts * kStateBytes];
  alignas(1024) unsigned char out[3][kTile];
  Gates<kNormal> gates[kStages];
  alignas(16) float n[kNormal ? kDk : 4], dn[kNormal ? kDk : 4];
  GateTerms terms[2];
  Mbarrier full[kStages], free[kStages];
  Mbarrier state_full, state_free;
  Mbarrier terms_full[2], terms_free[2];
};

struct Arguments {
  GateSource gates;
  const unsigned char *states, *dstates;
  bf16 *dq, *dk, *dv;  // of lanes
  float* dg;           // [B,T,lanes] or null
  Normaliser normal;
  Lanes lanes;
  int64_t count;  // records of all chains
  float scale;
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
template <int kBarrier, bool kCuts>
__device__ __forceinline__ void store_rows(const float (&d)[64], unsigned char* tile,
                                           const CUtensorMap& map, bf16* rows, int columns,
                                           const Lanes& lanes, const ChunkPlace& at, int warp,
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
    if (kCuts ? warp == 0 : issues) {
      store_columns<kCuts>(map, rows, lanes, tile, columns, 64 * half, at.head, at.first, at.row,
                           at.valid, at.cut, lane);
      commit_stores();
      if constexpr (kCuts) {
        __syncwarp();
      }
    }
  }
}

/// d += a b: a operands of 64 tokens, kNormal: and what they left, b [64 tokens][128] in two tiles.
template <bool kNormal>
__device__ __forceinline__ void add_scores(float (&d)[64], uint32_t (&a)[4][4],
                                           uint32_t (&rest)[4][4], const unsigned char* b) {
  const uint64_t y = wgmma::columns(smem_addr(b), kTile);
  wgmma::hold(d);
  wgmma::hold(a);
  if constexpr (kNormal) {
    wgmma::hold(rest);
  }
  wgmma::fence_sums();
  wgmma::multiply_steps<Depth::kColumns>(d, a, y, true);
  if constexpr (kNormal) {
    wgmma::multiply_steps<Depth::kColumns>(d, rest, y, true);
  }
  wgmma::commit();
  wgmma::wait<0>();
  wgmma::hold(d);
}

/// d (+= vector, by columns, where by_row is null) or row by row by_row times it.
__device__ __forceinline__ void add_vector(float (&d)[64], const float (&vector)[kDk],
                                           const float* by_row, int warp, int lane) {
  const int row = 16 * warp + lane / 4;
  const float x = by_row ? by_row[row] : 1.f, y = by_row ? by_row[row + 8] : 1.f;
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const float2 e = *reinterpret_cast<const float2*>(vector + 8 * j + 2 * (lane & 3));
    d[4 * j] += x * e.x;
    d[4 * j + 1] += x * e.y;
    d[4 * j + 2] += y * e.x;
    d[4 * j + 3] += y * e.y;
  }
}

/// <S, dS> of this thread's part of the images.
template <bool kNormal>
__device__ __forceinline__ float dot_images(const unsigned char* state,
                                            const unsigned char* dstate) {
  const auto* x = reinterpret_cast<const uint4*>(state) + threadIdx.x % 128;
  const auto* y = reinterpret_cast<const uint4*>(dstate) + threadIdx.x % 128;
  float sum = 0;
#pragma unroll(kNormal ? 2 : 4)
  for (int j = 0; j < kStateBytes / 16; j += 128) {
    const uint4 e = x[j], f = y[j];
    if constexpr (kNormal) {
      const uint4 e_rest = x[j + kStateBytes / 16], f_rest = y[j + kStateBytes / 16];
      const auto add = [&](uint32_t a, uint32_t a_rest, uint32_t b, uint32_t b_rest) {
        sum += (low_bf16(a) + low_bf16(a_rest)) * (low_bf16(b) + low_bf16(b_rest)) +
               (high_bf16(a) + high_bf16(a_rest)) * (high_bf16(b) + high_bf16(b_rest));
      };
      add(e.x, e_rest.x, f.x, f_rest.x);
      add(e.y, e_rest.y, f.y, f_rest.y);
      add(e.z, e_rest.z, f.z, f_rest.z);
      add(e.w, e_rest.w, f.w, f_rest.w);
    } else {
      sum += low_bf16(e.x) * low_bf16(f.x) + high_bf16(e.x) * high_bf16(f.x) +
             low_bf16(e.y) * low_bf16(f.y) + high_bf16(e.y) * high_bf16(f.y) +
             low_bf16(e.z) * low_bf16(f.z) + high_bf16(e.z) * high_bf16(f.z) +
             low_bf16(e.w) * low_bf16(f.w) + high_bf16(e.w) * high_bf16(f.w);
    }
  }
  return sum;
}

/// 0: dQ, 1: dK, 2: dV.
template <int kRole, bool kCuts, bool kNormal>
__device__ __forceinline__ void run_role(Shared<kNormal>& s, const CUtensorMap& out,
                                         const Arguments& args, int warp, int lane) {
  constexpr int kStages = Shared<kNormal>::kStages, kParts = Shared<kNormal>::kParts;
  bf16* const rows = kRole == 0 ? args.dq : kRole == 1 ? args.dk : args.dv;
  const int columns = kRole < 2 ? args.lanes.dk : args.lanes.width;
  const int row = 16 * warp + lane / 4;
  int n = 0;
  for (ChunkTurns<kCuts> turn(args.lanes.layout, args.count); turn.more(); turn.next(), ++n) {
    ChunkPlace at;  // of the warp that stores
    if (warp == 0) {
      at = turn.at();
    }
    const Stage& z = s.stage[n % kStages];
    const Gates<kNormal>& gates = s.gates[n % kStages];
    GateTerms& terms = s.terms[n % 2];
    float score[32], d[64];
    uint32_t p[4][4], p_rest[4][4];
    s.full[n % kStages].wait(this_turn<kStages>(n));
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
        const unsigned char* const image = kRole == 0 ? s.state : s.dstate;
#pragma unroll
        for (int j = 0; j < 8 * kParts; ++j) {
          const uint64_t y = wgmma::columns(smem_addr(image + j / 8 * kStateBytes), 2 * kTile);
          wgmma::multiply<128, Depth::kRows, Depth::kColumns>(d, wgmma::step_rows(x, j % 8),
                                                              wgmma::step_columns(y, j % 8), j > 0);
        }
      } else {
#pragma unroll
        for (int j = 0; j < 8 * kParts; ++j) {
          const uint64_t y = wgmma::rows(smem_addr(s.dstate + j / 8 * kStateBytes));
          wgmma::multiply<128, Depth::kRows, Depth::kRows>(d, wgmma::step_rows(x, j % 8),
                                                           wgmma::step_rows<128>(y, j % 8), j > 0);
        }
      }
      wgmma::commit();
    }
    float passed = 0;
    if constexpr (kRole == 2) {
      passed = dot_images<kNormal>(s.state, s.dstate);
      if constexpr (kNormal) {
        passed += s.n[threadIdx.x % 128] * s.dn[threadIdx.x % 128];
      }
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        passed += __shfl_xor_sync(0xffffffffu, passed, step);
      }
    }
    wgmma::wait<kNormal ? 0 : 1>();  // with a normaliser registers are too few for both
    wgmma::hold(score);
    if constexpr (kNormal) {
      wgmma::hold(d);
      float weighed[32];
      weigh_scores<kRole != 0, true, kRole != 2>(weighed, score, gates, args.scale, warp, lane);
      as_operands<4>(p, p_rest, weighed);
    } else {
      gate_scores<kRole != 0>(p, score, gates, args.scale, warp, lane);
    }
    wgmma::wait<0>();
    wgmma::hold(d);
    if constexpr (kNormal) {
      if constexpr (kRole == 0) {
        scale_rows(d, gates.value_read, warp, lane);
        add_vector(d, s.n, gates.sum_read, warp, lane);
      } else {
        if constexpr (kRole == 1) {
          add_vector(d, s.dn, nullptr, warp, lane);
        }
        scale_rows(d, gates.end, warp, lane);
      }
    }
    __syncwarp();
    if (lane == 0) {
      s.state_free.arrive();
    }
    if constexpr (!kNormal) {
      scale_rows(d, kRole == 0 ? gates.read : gates.end, warp, lane);
    }
    if (n >= 2) {
      s.terms_free[n % 2].wait(last_turn<2>(n));
    }
    if constexpr (kRole == 0) {
      add_scores<kNormal>(d, p, p_rest, z.k);
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
      add_scores<kNormal>(d, p, p_rest, z.q);
      const float2 x = dot_rows(d, z.k, warp, lane);
      if (lane % 4 == 0) {
        terms.k[row] = x.x;
        terms.k[row + 8] = x.y;
      }
      if (lane == 0) {
        terms.written[warp] = written;
      }
    } else {
      add_scores<kNormal>(d, p, p_rest, z.go);
      if (lane == 0) {
        terms.passed[warp] = passed;
      }
    }
    __syncwarp();
    if (lane == 0) {
      s.terms_full[n % 2].arrive();
      s.free[n % kStages].arrive();
    }
    store_rows<1 + kRole, kCuts>(d, s.out[kRole], out, rows, columns, args.lanes, at, warp, lane);
  }
  if (warp == 0 && lane == 0) {
    wait_stores<0>();
  }
}

template <bool kCuts, bool kNormal>
__global__ void __launch_bounds__(512, 1)
    gradients_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                     const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap go,
                     const __grid_constant__ CUtensorMap dq, const __grid_constant__ CUtensorMap dk,
                     const __grid_constant__ CUtensorMap dv, const Arguments args) {
#if LS_HOPPER_CODE
  constexpr int kStages = Shared<kNormal>::kStages, kParts = Shared<kNormal>::kParts;
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& s = *reinterpret_cast<Shared<kNormal>*>(memory);
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      s.full[i].init(2);
      s.free[i].init(13);
    }
    for (int i = 0; i < 2; ++i) {
      s.terms_full[i].init(12);
      s.terms_free[i].init(1);
    }
    s.state_full.init(1);
    s.state_free.init(12);
    fence_barrier_init();
  }
  for (int part = 0; part < kParts; ++part) {
    clear_images(s.state + part * kStateBytes, args.lanes, threadIdx.x, 512);
    clear_images(s.dstate + part * kStateBytes, args.lanes, threadIdx.x, 512);
  }
  __syncthreads();
  launch_dependents();
  wait_for_previous_grid();
  if (warpgroup == 3) {
    fewer_registers<32>();
    if (warp == 0) {
      if (elect_one()) {
        int n = 0;
        for (ChunkTurns<kCuts> turn(args.lanes.layout, args.count); turn.more(); turn.next(), ++n) {
          const ChunkPlace at = turn.at();
          Stage& to = s.stage[n % kStages];
          Mbarrier& full = s.full[n % kStages];
          if (n >= kStages) {
            s.free[n % kStages].wait(last_turn<kStages>(n));
          }
          full.arrive_expect(sizeof(Stage));
          const int query = args.lanes.query(at.head), key = args.lanes.key(at.head);
          for (int half = 0; half < 2; ++half) {
            const int c = 64 * half, t = at.first, tile = half * kTile;
            load_box(to.go + tile, &go, full, c, at.head, t, at.row);
            load_box(to.v + tile, &v, full, c, at.head, t, at.row);
            load_box(to.q + tile, &q, full, c, query, t, at.row);
            load_box(to.k + tile, &k, full, c, key, t, at.row);
          }
          if (n >= 1) {
            s.state_free.wait((n - 1) & 1);
          }
          const int64_t bytes = args.lanes.state_bytes(), image = at.record * kParts * bytes;
          const int64_t sums = kNormal ? 2 * kDk * sizeof(float) : 0;
          s.state_full.arrive_expect(static_cast<uint32_t>(2 * kParts * bytes + sums));
          for (int part = 0; part < kParts; ++part) {
            const int64_t from = image + part * bytes, place = part * kStateBytes;
            load_image(s.state + place, args.states + from, args.lanes, s.state_full);
            load_image(s.dstate + place, args.dstates + from, args.lanes, s.state_full);
          }
          if constexpr (kNormal) {
            load_bytes(s.n, args.normal.sums + at.record * kDk, sizeof(s.n), s.state_full);
            load_bytes(s.dn, args.normal.dsums + at.record * kDk, sizeof(s.dn), s.state_full);
          }
        }
      }
    } else if (warp == 1) {
      int n = 0;
      GateInputs<kNormal> next;
      const auto read = [&](const ChunkPlace& at) {
        next.read(args.gates, at.row, at.first + 2 * lane, args.lanes.gate(at.head),
                  at.first + at.valid);
      };
      ChunkTurns<kCuts> turn(args.lanes.layout, args.count);
      if (turn.more()) {
        read(turn.at());
      }
      for (; turn.more(); ++n) {
        const GateInputs<kNormal> now = next;
        const int valid = turn.at().valid;
        turn.next();
        if (turn.more()) {
          read(turn.at());
        }
        if (n >= kStages) {
          s.free[n % kStages].wait(last_turn<kStages>(n));
        }
        write_gates<kNormal>(s.gates[n % kStages], now, args.scale, valid, lane);
        __syncwarp();
        if (lane == 0) {
          s.full[n % kStages].arrive();
        }
      }
    } else if (warp == 2) {
      int n = 0;
      for (ChunkTurns<kCuts> turn(args.lanes.layout, args.count); turn.more(); turn.next(), ++n) {
        const ChunkPlace at = turn.at();
        s.terms_full[n % 2].wait(this_turn<2>(n));
        const GateTerms& z = s.terms[n % 2];
        const float2 xq = reinterpret_cast<const float2*>(z.q)[lane];
        const float2 xk = reinterpret_cast<const float2*>(z.k)[lane];
        const float written = z.written[0] + z.written[1] + z.written[2] + z.written[3];
        const float passed = z.passed[0] + z.passed[1] + z.passed[2] + z.passed[3];
        const float through = s.gates[n % kStages].all * passed + written;
        __syncwarp();
        if (lane == 0) {
          s.terms_free[n % 2].arrive();
          s.free[n % kStages].arrive();
        }
        const float x0 = 2 * lane < at.valid ? xq.x - xk.x : 0.f;
        const float x1 = 2 * lane + 1 < at.valid ? xq.y - xk.y : 0.f;
        float sum = x0 + x1;  // from this lane's first token to the end
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
          const float after = __shfl_down_sync(0xffffffffu, sum, step);
          sum += lane + step < 32 ? after : 0.f;
        }
        if constexpr (kNormal) {
          if (args.normal.dwritten) {
            float* const to =
                args.normal.dwritten +
                (static_cast<int64_t>(at.row) * args.gates.tokens + at.first + 2 * lane) *
                    args.gates.heads +
                at.head;
            if (2 * lane < at.valid) {
              to[0] = xk.x;
            }
            if (2 * lane + 1 < at.valid) {
              to[args.gates.heads] = xk.y;
            }
          }
        }
        if (args.dg) {
          const int heads = args.lanes.layout.heads;
          float* const to =
              args.dg +
              (static_cast<int64_t>(at.row) * args.gates.tokens + at.first + 2 * lane) * heads +
              at.head;
          if (2 * lane < at.valid) {
            to[0] = through + sum;
          }
          if (2 * lane + 1 < at.valid) {
            to[heads] = through + sum - x0;
          }
        }
      }
    }
  } else if (warpgroup == 0) {
    more_registers<160>();
    run_role<0, kCuts>(s, dq, args, warp, lane);
  } else if (warpgroup == 1) {
    more_registers<160>();
    run_role<1, kCuts>(s, dk, args, warp, lane);
  } else {
    more_registers<160>();
    run_role<2, kCuts>(s, dv, args, warp, lane);
  }
#endif
}

}  // namespace

cudaError_t decayed_linear_gradients(const LinearSizes& z, const LinearInputs& in, const bf16* go,
                                     const void* workspace, const LinearGradients& out,
                                     cudaStream_t stream) {
  static_assert(sizeof(Shared<false>) <= 227 * 1024 && sizeof(Shared<true>) <= 227 * 1024);
  const bool normalised = in.normaliser != nullptr, cuts = has_cuts(z);
  const int bytes = normalised ? sizeof(Shared<true>) : sizeof(Shared<false>);
  const auto kernel =
      normalised ? (cuts ? &gradients_kernel<true, true> : &gradients_kernel<false, true>)
                 : (cuts ? &gradients_kernel<true, false> : &gradients_kernel<false, false>);
  const cudaError_t allowed = allow_shared(kernel, bytes);
  int processors = 0;
  if (const cudaError_t e = processor_count(&processors)) return e;
  if (allowed != cudaSuccess) {
    return allowed;
  }
  const Workspace w(z, 1, const_cast<void*>(workspace), normalised);
  bf16 *const dq = w.dq ? w.dq : out.q, *const dk = w.dk ? w.dk : out.k;
  CUtensorMap from[4], to[4];
  if (const cudaError_t e =
          encode_operands(from, z, {in.q, in.k, in.v, go}, z.queries(), z.keys())) {
    return e;
  }
  if (const cudaError_t e =
          encode_operands(to, z, {dq, dk, out.v, out.v}, w.dq ? z.lanes() : z.queries(),
                          w.dk ? z.lanes() : z.keys())) {
    return e;
  }
  const auto count = static_cast<int64_t>(z.records());
  const Arguments args{gates_of(z, in),
                       w.states,
                       w.dstates,
                       dq,
                       dk,
                       out.v,
                       w.dg && out.g ? w.dg : out.g,
                       normalised ? *in.normaliser : Normaliser(),
                       lanes_in(z, in.offsets, w.places),
                       count,
                       z.scale};
  const int64_t blocks = count < processors ? count : processors;
  if (const cudaError_t e = launch_behind(kernel, blocks, 512, bytes, stream, from[0], from[1],
                                          from[2], from[3], to[0], to[1], to[2], args)) {
    return e;
  }
  return sum_lanes(z, w, 1, out, stream);
}

cudaError_t decayed_linear_backward(const LinearSizes& sizes, const LinearInputs& in,
                                    const bf16* go, const float* gs_end, void* workspace,
                                    const LinearGradients& out, cudaStream_t stream) {
  if (!sizes.valid()) {
    return cudaErrorInvalidValue;
  }
  if (in.normaliser) {  // finds chunks too
    const Workspace w(sizes, 1, workspace, true);
    if (const cudaError_t e = normaliser_sums(sizes, in, true, w.places, w.decays, stream)) {
      return e;
    }
  } else if (const cudaError_t e = find_chunks(sizes, in.offsets, 1, workspace, stream)) {
    return e;
  }
  const cudaError_t e = decayed_linear_states(sizes, in, go, gs_end, workspace, out.s0, stream);
  return e ? e : decayed_linear_gradients(sizes, in, go, workspace, out, stream);
}

}  // namespace ls::kernels::decayed_linear
