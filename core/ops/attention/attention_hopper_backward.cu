// Backward of attention on sm_90a, twice over the pairs as in attention_flash_backward.cuh: a block
// is 128 queries of a head and sums dq over tiles of 128 keys, or 128 keys of a key head and sums
// dk and dv over tiles of 64 queries of all heads that read them. 64 rows a warpgroup.
#include "core/ops/attention/attention_hopper.cuh"
#include "core/ops/attention/attention_hopper_passes.cuh"

namespace ls::ops::attention::hopper {
namespace {

constexpr int kKeys = 128;    // of a tile of the pass over queries
constexpr int kQueries = 64;  // of a tile of the pass over keys

template <int kD>
struct QueryShared {
  alignas(1024) unsigned char q[2][kBytes<64, kD>];
  alignas(1024) unsigned char go[2][kBytes<64, kD>];
  alignas(1024) unsigned char k[kStages][kBytes<kKeys, kD>];
  alignas(1024) unsigned char v[kStages][kBytes<kKeys, kD>];
  Limits limits[128];
  Reach reach;
  Mbarrier own_full, full[kStages], free[kStages];
};

template <int kD>
__device__ __forceinline__ void bring_queries(QueryShared<kD>& s, const Maps& maps,
                                              const Here<bf16>& at, int r0) {
  const int kh = at.kh / static_cast<int>(at.call.group);
  s.own_full.arrive_expect(4 * kBytes<64, kD>);
  for (int i = 0; i < 2; ++i) {
    bring_tile<64, kD>(s.q[i], maps.q, s.own_full, at.kh, r0 + 64 * i, at.b);
    bring_tile<64, kD>(s.go[i], maps.go, s.own_full, at.kh, r0 + 64 * i, at.b);
  }
  const int end = s.reach.end();
  int n = 0;
  for (int j = next_keys<kKeys>(s.reach, s.reach.begin() / kKeys * kKeys, end); j < end; ++n) {
    const int i = n % kStages;
    if (n >= kStages) {
      s.free[i].wait(cuda::last_turn<kStages>(n));
    }
    s.full[i].arrive_expect(2 * kBytes<kKeys, kD>);
    bring_tile<kKeys, kD>(s.k[i], maps.k, s.full[i], kh, j, at.b);
    bring_tile<kKeys, kD>(s.v[i], maps.v, s.full[i], kh, j, at.b);
    j = next_keys<kKeys>(s.reach, j + kKeys, end);
  }
}

template <int kD>
__device__ __forceinline__ void sum_queries(QueryShared<kD>& s, const Maps& maps,
                                            const Here<bf16>& at, int r0, int group, int warp,
                                            int lane) {
  const float unit = at.call.scale * cuda::kLog2e;
  const int row = 64 * group + 16 * warp + lane / 4, column = 2 * (lane % 4);
  float2 statistics[2];
  for (int half = 0; half < 2; ++half) {
    const int r = r0 + row + 8 * half;
    statistics[half] = r < at.rows ? at.extra.statistics[at.place(r)] : make_float2(INFINITY, 0);
  }
  float dq[kD / 2] = {};
  const uint64_t q = wgmma::rows(cuda::smem_addr(s.q[group]));
  const uint64_t go = wgmma::rows(cuda::smem_addr(s.go[group]));
  s.own_full.wait(0);
  const int end = s.reach.end();
  int n = 0;
  for (int j = next_keys<kKeys>(s.reach, s.reach.begin() / kKeys * kKeys, end); j < end; ++n) {
    const int i = n % kStages;
    float x[kKeys / 2], y[kKeys / 2];
    s.full[i].wait(cuda::this_turn<kStages>(n));
    wgmma::fence_sums();
    dots<kD, 64, kKeys>(x, q, wgmma::rows(cuda::smem_addr(s.k[i])));
    wgmma::commit();
    dots<kD, 64, kKeys>(y, go, wgmma::rows(cuda::smem_addr(s.v[i])));
    wgmma::commit();
    wgmma::wait<1>();
    wgmma::hold(x);
    const bool masked = !s.reach.all(j, kKeys);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int e = 0; e < kKeys / 4; ++e) {
        float& p = x[4 * (e / 2) + 2 * half + e % 2];
        p = cuda::exp2_fast(p * unit - statistics[half].x);
      }
      if (masked) {
        const Limits limits = s.limits[row + 8 * half];
#pragma unroll
        for (int e = 0; e < kKeys / 4; ++e) {
          float& p = x[4 * (e / 2) + 2 * half + e % 2];
          p = limits.visible(j + 8 * (e / 2) + column + e % 2) ? p : 0.f;
        }
      }
    }
    wgmma::wait<0>();
    wgmma::hold(y);
#pragma unroll
    for (int e = 0; e < kKeys / 2; ++e) {
      x[e] *= y[e] - statistics[e / 2 % 2].y;
    }
    uint32_t ds[kKeys / 16][4];
    cuda::as_operand<kKeys / 16>(ds, x);
    wgmma::hold(dq);
    wgmma::hold(ds);
    wgmma::fence_sums();
    add_rows<kD, kKeys>(dq, ds, s.k[i]);
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(dq);
    cuda::arrive_warp(s.free[i], lane);
    j = next_keys<kKeys>(s.reach, j + kKeys, end);
  }
#pragma unroll
  for (float& e : dq) {
    e *= at.call.scale;
  }
  put_tile<kD>(s.q[group], dq, maps.dq, at.kh, r0 + 64 * group, at.b, group, warp, lane);
}

template <int kD>
__global__ void __launch_bounds__(kThreads, 1)
    query_kernel(const __grid_constant__ Maps maps, const __grid_constant__ Call<bf16> call,
                 const __grid_constant__ Extra extra) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& s = *reinterpret_cast<QueryShared<kD>*>(memory);
  const int group = cuda::warp_index() / 4, warp = cuda::warp_index() % 4;
  const int r0 = static_cast<int>(gridDim.z - 1 - blockIdx.z) * 128;
  const Here<bf16> at(call, extra, static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.x), 1);
  if (threadIdx.x == 0) {
    s.own_full.init(1);
    cuda::init_ring(s.full, s.free, 8);
    cuda::fence_barrier_init();
  }
  find_reach(at, s.limits, s.reach, r0);
  if (group == 2) {
    cuda::fewer_registers<24>();
    if (warp == 0 && cuda::elect_one()) {
      bring_queries<kD>(s, maps, at, r0);
    }
  } else {
    cuda::more_registers<240>();
    sum_queries<kD>(s, maps, at, r0, group, warp, cuda::lane_index());
  }
#endif
}

template <int kD>
struct KeyShared {
  alignas(1024) unsigned char k[2][kBytes<64, kD>];
  alignas(1024) unsigned char v[2][kBytes<64, kD>];
  alignas(1024) unsigned char q[kStages][kBytes<kQueries, kD>];
  alignas(1024) unsigned char go[kStages][kBytes<kQueries, kD>];
  alignas(16) float2 statistics[kStages][kQueries];
  Mbarrier own_full, full[kStages], free[kStages];
  int begin, end;  ///< tiles of queries
};
using Watchers = flash::Watchers<bf16, 128, kQueries>;

template <int kD>
__device__ __forceinline__ void bring_keys(KeyShared<kD>& s, const Maps& maps, const Here<bf16>& at,
                                           int kh, int j0) {
  const int group = static_cast<int>(at.call.group);
  const Watchers watchers(at, j0);
  s.own_full.arrive_expect(4 * kBytes<64, kD>);
  for (int i = 0; i < 2; ++i) {
    bring_tile<64, kD>(s.k[i], maps.k, s.own_full, kh, j0 + 64 * i, at.b);
    bring_tile<64, kD>(s.v[i], maps.v, s.own_full, kh, j0 + 64 * i, at.b);
  }
  int n = 0;
  for (int g = 0; g < group; ++g) {
    const int h = kh * group + g;
    for (int tile = watchers.next(s.begin, s.end); tile < s.end; ++n) {
      const int i = n % kStages, r0 = tile * kQueries;
      if (n >= kStages) {
        s.free[i].wait(cuda::last_turn<kStages>(n));
      }
      s.full[i].arrive_expect(2 * kBytes<kQueries, kD> + sizeof(s.statistics[0]));
      bring_tile<kQueries, kD>(s.q[i], maps.q, s.full[i], h, r0, at.b);
      bring_tile<kQueries, kD>(s.go[i], maps.go, s.full[i], h, r0, at.b);
      const int64_t place = (at.b * at.call.q_heads + h) * at.extra.stride + r0;
      cuda::load_bytes(s.statistics[i], at.extra.statistics + place, sizeof(s.statistics[0]),
                       s.full[i]);
      tile = watchers.next(tile + 1, s.end);
    }
  }
}

/// Adds what comes through the outgoing cache to a thread's sums of keys j and j + 8.
template <int kD>
__device__ __forceinline__ void add_kept(float (&x)[kD / 2], const Here<bf16>& at,
                                         const Rows<const bf16>& kept, int kh, int j, int d,
                                         int lane) {
  const int dropped = at.keys - static_cast<int>(at.call.out_rows);
  for (int half = 0; kept && half < 2; ++half) {
    const int row = j + 8 * half - dropped;
    if (row < 0 || j + 8 * half >= at.keys) {
      continue;
    }
    const bf16* const from = kept.at(at.b, row, kh);
#pragma unroll
    for (int e = 0; e < kD / 4; ++e) {
      const int c = 8 * (e / 2) + 2 * (lane % 4) + e % 2;
      if (c < d) {
        x[4 * (e / 2) + 2 * half + e % 2] += convert<float>(from[c]);
      }
    }
  }
}

template <int kD>
__device__ __forceinline__ void sum_keys(KeyShared<kD>& s, const Maps& maps, const Here<bf16>& at,
                                         int kh, int j0, int group, int warp, int lane) {
  const Call<bf16>& call = at.call;
  const float unit = call.scale * cuda::kLog2e;
  const int key = j0 + 64 * group + 16 * warp + lane / 4, column = 2 * (lane % 4);
  const Watchers watchers(at, j0);
  float dk[kD / 2] = {}, dv[kD / 2] = {};
  const uint64_t k = wgmma::rows(cuda::smem_addr(s.k[group]));
  const uint64_t v = wgmma::rows(cuda::smem_addr(s.v[group]));
  s.own_full.wait(0);
  int n = 0;
  for (int g = 0; g < static_cast<int>(call.group); ++g) {
    for (int tile = watchers.next(s.begin, s.end); tile < s.end; ++n) {
      const int i = n % kStages;
      const bool masked = !watchers.all(tile);
      float x[kQueries / 2], y[kQueries / 2];
      s.full[i].wait(cuda::this_turn<kStages>(n));
      wgmma::fence_sums();
      dots<kD, 64, kQueries>(x, k, wgmma::rows(cuda::smem_addr(s.q[i])));
      wgmma::commit();
      dots<kD, 64, kQueries>(y, v, wgmma::rows(cuda::smem_addr(s.go[i])));
      wgmma::commit();
      wgmma::wait<1>();
      wgmma::hold(x);
#pragma unroll
      for (int c = 0; c < kQueries / 8; ++c) {
        const float4 both = *reinterpret_cast<const float4*>(&s.statistics[i][8 * c + column]);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& p = x[4 * c + e];
          p = cuda::exp2_fast(p * unit - (e % 2 ? both.z : both.x));
        }
      }
      if (masked) {
#pragma unroll
        for (int c = 0; c < kQueries / 4; ++c) {
          const int of = 8 * (c / 2) + column + c % 2;
          const Limits limits = at.limits(tile * kQueries + of);
          for (int half = 0; half < 2; ++half) {
            float& p = x[4 * (c / 2) + 2 * half + c % 2];
            p = limits.visible(key + 8 * half) ? p : 0.f;
          }
        }
      }
      uint32_t p[kQueries / 16][4], ds[kQueries / 16][4];
      cuda::as_operand<kQueries / 16>(p, x);
      wgmma::wait<0>();
      wgmma::hold(y);
      wgmma::hold(dv);
      wgmma::hold(p);
      wgmma::fence_sums();
      add_rows<kD, kQueries>(dv, p, s.go[i]);
      wgmma::commit();
#pragma unroll
      for (int c = 0; c < kQueries / 8; ++c) {
        const float4 both = *reinterpret_cast<const float4*>(&s.statistics[i][8 * c + column]);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          x[4 * c + e] *= y[4 * c + e] - (e % 2 ? both.w : both.y);
        }
      }
      cuda::as_operand<kQueries / 16>(ds, x);
      wgmma::hold(dk);
      wgmma::hold(ds);
      wgmma::fence_sums();
      add_rows<kD, kQueries>(dk, ds, s.q[i]);
      wgmma::commit();
      wgmma::wait<0>();
      wgmma::hold(dv);
      wgmma::hold(dk);
      cuda::arrive_warp(s.free[i], lane);
      tile = watchers.next(tile + 1, s.end);
    }
  }
#pragma unroll
  for (float& e : dk) {
    e *= call.scale;
  }
  add_kept<kD>(dk, at, call.gkT, kh, key, static_cast<int>(call.dk), lane);
  add_kept<kD>(dv, at, call.gvT, kh, key, static_cast<int>(call.dv), lane);
  if (call.dk_) {
    put_tile<kD>(s.k[group], dk, maps.dk, kh, j0 + 64 * group, at.b, group, warp, lane);
  }
  if (call.dv_) {
    put_tile<kD>(s.v[group], dv, maps.dv, kh, j0 + 64 * group, at.b, group, warp, lane);
  }
}

template <int kD>
__global__ void __launch_bounds__(kThreads, 1)
    key_kernel(const __grid_constant__ Maps maps, const __grid_constant__ Call<bf16> call,
               const __grid_constant__ Extra extra) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& s = *reinterpret_cast<KeyShared<kD>*>(memory);
  const int group = cuda::warp_index() / 4, warp = cuda::warp_index() % 4;
  const int kh = static_cast<int>(blockIdx.x), j0 = static_cast<int>(blockIdx.z) * 128;
  // Queries are alike for all heads.
  const Here<bf16> at(call, extra, static_cast<int>(blockIdx.y), 0, 1);
  if (threadIdx.x == 0) {
    s.own_full.init(1);
    cuda::init_ring(s.full, s.free, 8);
    cuda::fence_barrier_init();
  }
  Watchers(at, j0).find_range(s.begin, s.end);
  if (group == 2) {
    cuda::fewer_registers<24>();
    if (warp == 0 && cuda::elect_one()) {
      bring_keys<kD>(s, maps, at, kh, j0);
    }
  } else {
    cuda::more_registers<240>();
    sum_keys<kD>(s, maps, at, kh, j0, group, warp, cuda::lane_index());
  }
#endif
}

Maps maps_of(const Call<bf16>& c) {
  Maps maps{};
  const Index heads = c.q_heads / c.group;
  encode(maps.q, c.q, c.batch, c.queries, c.q_heads, c.dk);
  encode(maps.go, c.go, c.batch, c.queries, c.q_heads, c.dv);
  encode(maps.k, c.k, c.batch, c.own, heads, c.dk);
  encode(maps.v, c.v, c.batch, c.own, heads, c.dv);
  return maps;
}
template <int kD>
void launch_queries(const Maps& maps, const Call<bf16>& call, const Extra& extra) {
  static_assert(sizeof(QueryShared<kD>) <= 227 * 1024);
  const dim3 grid(static_cast<unsigned>(call.q_heads), static_cast<unsigned>(call.batch),
                  static_cast<unsigned>(cuda::blocks_for(call.queries, 128)));
  cuda::launch(&query_kernel<kD>, grid, dim3(kThreads), sizeof(QueryShared<kD>), maps, call, extra);
}
template <int kD>
void launch_keys(const Maps& maps, const Call<bf16>& call, const Extra& extra) {
  static_assert(sizeof(KeyShared<kD>) <= 227 * 1024);
  const dim3 grid(static_cast<unsigned>(call.q_heads / call.group),
                  static_cast<unsigned>(call.batch),
                  static_cast<unsigned>(cuda::blocks_for(call.own, 128)));
  cuda::launch(&key_kernel<kD>, grid, dim3(kThreads), sizeof(KeyShared<kD>), maps, call, extra);
}

}  // namespace

void query_gradients(const Call<bf16>& call, const Extra& extra) {
  Maps maps = maps_of(call);
  encode(maps.dq, call.dq, call.batch, call.queries, call.q_heads, call.dk);
  if (std::max(call.dk, call.dv) <= 64) {
    launch_queries<64>(maps, call, extra);
  } else {
    launch_queries<128>(maps, call, extra);
  }
}
void key_gradients(const Call<bf16>& call, const Extra& extra) {
  Maps maps = maps_of(call);
  const Index heads = call.q_heads / call.group;
  if (call.dk_) {
    encode(maps.dk, call.dk_, call.batch, call.own, heads, call.dk);
  }
  if (call.dv_) {
    encode(maps.dv, call.dv_, call.batch, call.own, heads, call.dv);
  }
  if (std::max(call.dk, call.dv) <= 64) {
    launch_keys<64>(maps, call, extra);
  } else {
    launch_keys<128>(maps, call, extra);
  }
}

}  // namespace ls::ops::attention::hopper
