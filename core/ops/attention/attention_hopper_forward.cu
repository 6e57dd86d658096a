// Forward of attention on sm_90a: a block is 128 queries of a head, 64 a warpgroup.
#include "core/ops/attention/attention_hopper.cuh"
#include "core/ops/attention/attention_hopper_passes.cuh"

namespace ls::ops::attention::hopper {
namespace {

constexpr int kN = 128;  // keys of a tile

template <int kD>
struct Shared {
  alignas(1024) unsigned char q[2][kBytes<64, kD>];
  alignas(1024) unsigned char k[kStages][kBytes<kN, kD>];
  alignas(1024) unsigned char v[kStages][kBytes<kN, kD>];
  Limits limits[128];
  Reach reach;
  Mbarrier q_full, k_full[kStages], k_free[kStages], v_full[kStages], v_free[kStages];
};

template <int kD>
__device__ __forceinline__ void bring(Shared<kD>& s, const Maps& maps, const Here<bf16>& at,
                                      int r0) {
  const int group = static_cast<int>(at.call.group), kh = at.kh / group;
  s.q_full.arrive_expect(2 * kBytes<64, kD>);
  for (int i = 0; i < 2; ++i) {
    bring_tile<64, kD>(s.q[i], maps.q, s.q_full, at.kh, r0 + 64 * i, at.b);
  }
  const int end = s.reach.end();
  int n = 0;
  for (int j = next_keys<kN>(s.reach, s.reach.begin() / kN * kN, end); j < end; ++n) {
    const int i = n % kStages;
    if (n >= kStages) {
      s.k_free[i].wait(cuda::last_turn<kStages>(n));
    }
    s.k_full[i].arrive_expect(kBytes<kN, kD>);
    bring_tile<kN, kD>(s.k[i], maps.k, s.k_full[i], kh, j, at.b);
    if (n >= kStages) {
      s.v_free[i].wait(cuda::last_turn<kStages>(n));
    }
    s.v_full[i].arrive_expect(kBytes<kN, kD>);
    bring_tile<kN, kD>(s.v[i], maps.v, s.v_full[i], kh, j, at.b);
    j = next_keys<kN>(s.reach, j + kN, end);
  }
}

/// Running maximum and sum of a thread's two rows.
struct Softmax {
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  /// s becomes exp(s - top), out goes by the new top.
  template <int kOut>
  __device__ __forceinline__ void weigh(float (&s)[kN / 2], float (&out)[kOut], float unit) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = top[half];
#pragma unroll
      for (int j = 0; j < kN / 8; ++j) {
        most = fmaxf(most, fmaxf(s[4 * j + 2 * half], s[4 * j + 2 * half + 1]));
      }
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
      const float base = most == -INFINITY ? 0.f : most * unit;
      const float keep = cuda::exp2_fast(top[half] * unit - base);
      top[half] = most;
      float all = 0;
#pragma unroll
      for (int j = 0; j < kN / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = s[4 * j + 2 * half + i];
          x = cuda::exp2_fast(x * unit - base);
          all += x;
        }
      }
      sum[half] = sum[half] * keep + all;
#pragma unroll
      for (int j = 0; j < kOut / 4; ++j) {
        out[4 * j + 2 * half] *= keep;
        out[4 * j + 2 * half + 1] *= keep;
      }
    }
  }
};

template <int kD>
__device__ __forceinline__ void work(Shared<kD>& s, const Maps& maps, const Here<bf16>& at, int r0,
                                     int group, int warp, int lane) {
  const float unit = at.call.scale * cuda::kLog2e;
  const int row = 64 * group + 16 * warp + lane / 4, column = 2 * (lane % 4);
  float out[kD / 2] = {};
  Softmax softmax;
  for (int half = 0; half < 2; ++half) {
    if (at.call.sink) {
      softmax.top[half] = at.call.sink[at.kh] * cuda::kLog2e / unit;
      softmax.sum[half] = lane % 4 == 0 ? 1.f : 0.f;
    }
  }
  const uint64_t q = wgmma::rows(cuda::smem_addr(s.q[group]));
  s.q_full.wait(0);
  const int end = s.reach.end();
  int n = 0;
  for (int j = next_keys<kN>(s.reach, s.reach.begin() / kN * kN, end); j < end; ++n) {
    const int i = n % kStages;
    float x[kN / 2];
    s.k_full[i].wait(cuda::this_turn<kStages>(n));
    wgmma::fence_sums();
    dots<kD, 64, kN>(x, q, wgmma::rows(cuda::smem_addr(s.k[i])));
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(x);
    cuda::arrive_warp(s.k_free[i], lane);
    if (!s.reach.all(j, kN)) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Limits limits = s.limits[row + 8 * half];
#pragma unroll
        for (int e = 0; e < kN / 4; ++e) {
          const int at_key = 8 * (e / 2) + column + e % 2;
          float& y = x[4 * (e / 2) + 2 * half + e % 2];
          y = limits.visible(j + at_key) ? y : -INFINITY;
        }
      }
    }
    softmax.weigh(x, out, unit);
    uint32_t p[kN / 16][4];
    cuda::as_operand<kN / 16>(p, x);
    s.v_full[i].wait(cuda::this_turn<kStages>(n));
    wgmma::hold(out);
    wgmma::hold(p);
    wgmma::fence_sums();
    add_rows<kD, kN>(out, p, s.v[i]);
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(out);
    cuda::arrive_warp(s.v_free[i], lane);
    j = next_keys<kN>(s.reach, j + kN, end);
  }
  for (int half = 0; half < 2; ++half) {
    float sum = softmax.sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const float over = sum > 0 ? 1 / sum : 0.f;
#pragma unroll
    for (int c = 0; c < kD / 8; ++c) {
      out[4 * c + 2 * half] *= over;
      out[4 * c + 2 * half + 1] *= over;
    }
    const int r = r0 + row + 8 * half;
    if (r < at.rows && lane % 4 == 0) {
      at.call.lse[at.call.row(at.b, r, at.kh)] =
          sum > 0 ? softmax.top[half] * at.call.scale + logf(sum) : -INFINITY;
    }
  }
  put_tile<kD>(s.q[group], out, maps.o, at.kh, r0 + 64 * group, at.b, group, warp, lane);
}

template <int kD>
__global__ void __launch_bounds__(kThreads, 1)
    forward_kernel(const __grid_constant__ Maps maps, const __grid_constant__ Call<bf16> call,
                   const __grid_constant__ Extra extra) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& s = *reinterpret_cast<Shared<kD>*>(memory);
  const int group = cuda::warp_index() / 4, warp = cuda::warp_index() % 4;
  const int lane = cuda::lane_index();
  // The last queries see the most keys: first.
  const int r0 = static_cast<int>(gridDim.z - 1 - blockIdx.z) * 128;
  const Here<bf16> at(call, extra, static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.x), 1);
  if (threadIdx.x == 0) {
    s.q_full.init(1);
    cuda::init_ring(s.k_full, s.k_free, 8);
    cuda::init_ring(s.v_full, s.v_free, 8);
    cuda::fence_barrier_init();
  }
  find_reach(at, s.limits, s.reach, r0);
  if (group == 2) {
    cuda::fewer_registers<24>();
    if (warp == 0 && cuda::elect_one()) {
      bring<kD>(s, maps, at, r0);
    }
  } else {
    cuda::more_registers<240>();
    work<kD>(s, maps, at, r0, group, warp, lane);
  }
#endif
}

template <int kD>
void launch(const Maps& maps, const Call<bf16>& call, const Extra& extra) {
  static_assert(sizeof(Shared<kD>) <= 227 * 1024);
  const dim3 grid(static_cast<unsigned>(call.q_heads), static_cast<unsigned>(call.batch),
                  static_cast<unsigned>(cuda::blocks_for(call.queries, 128)));
  cuda::launch(&forward_kernel<kD>, grid, dim3(kThreads), sizeof(Shared<kD>), maps, call, extra);
}

}  // namespace

void forward(const Call<bf16>& call, const Extra& extra) {
  Maps maps{};
  encode(maps.q, call.q, call.batch, call.queries, call.q_heads, call.dk);
  encode(maps.k, call.k, call.batch, call.own, call.q_heads / call.group, call.dk);
  encode(maps.v, call.v, call.batch, call.own, call.q_heads / call.group, call.dv);
  encode(maps.o, call.o, call.batch, call.queries, call.q_heads, call.dv);
  if (std::max(call.dk, call.dv) <= 64) {
    launch<64>(maps, call, extra);
  } else {
    launch<128>(maps, call, extra);
  }
}

}  // namespace ls::ops::attention::hopper
