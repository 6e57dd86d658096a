// Reverse chunk loop of the gated delta rule at Dk 256, by the plan of gated_delta_wide.cuh and the
// equations of gated_delta_reverse.cu; states before each chunk by more CTAs of the same grid.
#include "core/ops/delta_rule/gated_delta_reverse.cuh"
#include "core/ops/delta_rule/gated_delta_wide.cuh"

namespace ls::kernels::gated_delta {
namespace {

using wide::kDk;
using wide::Loop;
using wide::Place;
using wide::Shared;

__device__ __forceinline__ void run_reverse(Shared& s, const ReverseArguments& args,
                                            const Place& at, int i, int warp, int lane) {
  const int pair = 2 * (lane & 3), slice = at.slice + i;
  float state[kDk / 2];  // dS'^T
  forward::load_state<kDk>(state, args.gs_end, at.end, slice,
                           args.gs_end && at.end >= 0 ? args.dk : 0, args.dv, warp, lane);
  const uint32_t image = smem_addr(s.state[i]);
  const uint64_t copy = wgmma::rows(image);
  wide::store_copy(state, image, warp, lane);
  fence_proxy_async();
  for (int m = 0; m < at.chunks; ++m) {
    const wide::Scores& z = s.scores[m % 2];
    const unsigned char* k = s.k[m % 2];
    float w[32];  // dS' read by the keys, Y, dV
    uint32_t go[4][4], b[4][4];
    arrive_warp(s.state_full[i], lane);
    cuda::named_sync(1 + i, 128);
    s.keys_full[m % 2].wait((m / 2) & 1);
    if (at.cut(at.chunks - 1 - m)) {
      wide::clear_tail<Loop::kReverse>(s, at, m, i, warp, lane);
    }
    wide::read_state(w, copy, wgmma::rows(smem_addr(k)));
    wgmma::wait<1>();  // Nothing to wait for, but ptxas would otherwise before `state` is touched.
    wgmma::hold(state);
    // Under it: dS' decays (before a wait, as there); dO.
    const float decay = z.gates.begin[63];
#pragma unroll
    for (float& x : state) {
      x *= decay;
    }
    wgmma::hold(state);
    s.values_full[i].wait(m & 1);
    load_transposed(go, s.v[i], warp, lane);
    wgmma::wait<0>();
    wgmma::hold(w);
    // Y, and dV in its place.
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 f = *reinterpret_cast<const float2*>(z.gates.late + 8 * j + pair);
      w[4 * j] *= f.x;
      w[4 * j + 1] *= f.y;
      w[4 * j + 2] *= f.x;
      w[4 * j + 3] *= f.y;
    }
    const uint64_t scores = wgmma::columns(smem_addr(z.p));
    wgmma::hold(w);
    wgmma::hold(go);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kColumns>(w, go, scores, true);
    wgmma::commit();
    arrive_warp(s.values_free[i], lane);
    wgmma::wait<0>();
    wgmma::hold(w);
    wgmma::hold(go);
    as_operand<4>(b, w);
    const uint64_t solve = wgmma::columns(smem_addr(z.n));
    wgmma::hold(w);
    wgmma::hold(b);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kColumns, -1>(w, b, solve, true);
    wgmma::commit();
    // The query's part of dS, with scale exp(G) in dO.
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 g = *reinterpret_cast<const float2*>(z.gates.begin + 8 * j + pair);
      const float g0 = args.scale * g.x, g1 = args.scale * g.y;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        uint32_t& x = go[j / 2][2 * (j % 2) + h];
        x = pack_bf16(g0 * low_bf16(x), g1 * high_bf16(x));
      }
    }
    s.queries_full.wait(m & 1);
    const uint64_t queries = wgmma::columns(smem_addr(s.q), kTile);
    wgmma::hold(state);
    wgmma::hold(go);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kColumns>(state, go, queries, true);
    wgmma::commit();
    wgmma::wait<1>();
    wgmma::hold(w);
    wgmma::hold(b);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 f = *reinterpret_cast<const float2*>(z.gates.begin + 8 * j + pair);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        b[j / 2][2 * (j % 2) + h] = pack_bf16(f.x * w[4 * j + 2 * h], f.y * w[4 * j + 2 * h + 1]);
      }
    }
    const uint64_t depth = wgmma::columns(smem_addr(k), kTile);
    wgmma::hold(b);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kColumns, -1>(state, b, depth, true);
    wgmma::commit();
    // Under both: dV goes out.
    wgmma::wait<1>();
    wgmma::hold(go);
    arrive_warp(s.queries_free, lane);
    if (m > 0) {
      s.rows_free[i].wait((m - 1) & 1);
    }
    as_operand<4>(go, w);
    store_transposed(s.rows[i], go, warp, lane);
    fence_proxy_async();
    arrive_warp(s.rows_full[i], lane);
    s.state_free[i].wait(m & 1);
    wgmma::wait<0>();
    wgmma::hold(state);
    arrive_warp(s.keys_free[m % 2], lane);
    cuda::named_sync(1 + i, 128);  // nobody's product reads the copy any more
    wide::store_copy(state, image, warp, lane);
    fence_proxy_async();
  }
  if (args.gs0 && at.start >= 0) {
    forward::store_state<kDk>(state, args.gs0, at.start, slice, args.dk, args.dv, warp, lane);
  }
}

/// CTAs from `blocks` on, if there are any, make the states.
__global__ void __launch_bounds__(wide::kThreads, 1) wide_reverse_kernel(
    const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
    const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap go,
    const __grid_constant__ CUtensorMap dv, const __grid_constant__ ReverseArguments args,
    const __grid_constant__ forward::Arguments again, int blocks) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char raw[];
  Shared& s = *reinterpret_cast<Shared*>(raw);
  const int block = static_cast<int>(blockIdx.x), warp = warp_index(), lane = lane_index();
  const bool reverse = block < blocks;
  const Place at(args.layout, args.slices, reverse ? block : block - blocks, blocks);
  if (threadIdx.x == 0) {
    wide::init_barriers(s, 2);
  }
  __syncthreads();
  if (warp < 4) {
    cuda::fewer_registers<40>();
    if (warp == 0 && lane == 0) {
      if (reverse) {
        wide::bring_tiles<Loop::kReverse>(s, q, k, go, args.kept, at);
      } else {
        wide::bring_tiles<Loop::kStates>(s, q, k, v, args.kept, at);
      }
    } else if (warp == 1 || warp == 2) {
      if (reverse) {
        wide::store_results<Loop::kReverse>(s, warp - 1, &dv, args.dv_rows, args.dv_steps,
                                            args.records, args.dv, at, lane);
      } else {
        wide::store_results<Loop::kStates>(s, warp - 1, &dv, nullptr, {}, again.records, args.dv,
                                           at, lane);
      }
    }
  } else {
    cuda::more_registers<232>();
    if (reverse) {
      run_reverse(s, args, at, warp / 4 - 1, warp % 4, lane);
    } else {
      wide::run_forward<Loop::kStates>(s, again, at, warp / 4 - 1, warp % 4, lane);
    }
  }
#endif
}

}  // namespace

cudaError_t gated_delta_wide_reverse(const DeltaSizes& z, const CUtensorMap& q,
                                     const CUtensorMap& k, const CUtensorMap& v,
                                     const CUtensorMap& go, const CUtensorMap& dv,
                                     const ReverseArguments& args, const forward::Arguments& again,
                                     cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared);
  if (const cudaError_t e = allow_shared(wide_reverse_kernel, kBytes)) return e;
  const int blocks = z.sequences() * z.heads * args.slices / 2;
  wide_reverse_kernel<<<static_cast<unsigned>(again.records.states ? 2 * blocks : blocks),
                        wide::kThreads, kBytes, stream>>>(q, k, v, go, dv, args, again, blocks);
  return cudaGetLastError();
}

}  // namespace ls::kernels::gated_delta
