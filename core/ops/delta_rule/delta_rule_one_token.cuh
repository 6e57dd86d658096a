#pragma once
// One token of the gated delta rule, as decoding has it: bound by reading and writing the state.
// A block has kColumns columns of the state of one head of one row, a thread four of them in every
// 32nd row, in registers between the two passes over them:
//   S' = exp(g) S,  u = v - S'^T k,  S = S' + k (beta u)^T,  o = scale (S'^T q + (q k) beta u)
#include "core/backend/cuda/device/convert.cuh"
#include "core/ops/delta_rule/delta_rule_hopper.cuh"

namespace ls::ops::delta_rule::hopper {

struct OneToken {
  static constexpr int kColumns = 32, kThreads = 256, kMostRows = 256;
  common::Rows<const bf16> q, k, v;
  const Element* beta;
  const float *g, *s0;  ///< or null: no decay, zeros
  Element* o;
  float* sT;
  int rows, heads, group, dk, dv;
  float scale;
  bool normalize;

  OneToken(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a)
      : q(common::rows_in<bf16>(in.q)),
        k(common::rows_in<bf16>(in.k)),
        v(common::rows_in<bf16>(in.v)),
        beta(at(in.beta)),
        g(floats(in.g)),
        s0(floats(in.s0)),
        o(at(out.o)),
        sT(floats(out.sT)),
        rows(static_cast<int>(in.q.size(0))),
        heads(static_cast<int>(in.v.size(2))),
        group(heads / static_cast<int>(in.k.size(2))),
        dk(static_cast<int>(in.k.size(3))),
        dv(static_cast<int>(in.v.size(3))),
        scale(static_cast<float>(a.scale)),
        normalize(a.qk_l2norm) {}
  /// Where no backward pass follows, and each row has a state of its own or none.
  static bool serves(const Op::In<TensorView>& in) {
    return in.q.size(1) == 1 && !in.offsets.defined() &&
           (!in.s0.defined() || in.s0.size(0) == in.q.size(0)) && in.k.size(3) <= kMostRows &&
           in.v.size(3) % 4 == 0;
  }
  void launch() const;
};

/// Sums of three numbers over a block of 256 threads, for all of them.
__device__ inline void block_sums(float (&x)[3], float (*shared)[3]) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (float& e : x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      e += __shfl_xor_sync(0xffffffffu, e, step);
    }
  }
  if (threadIdx.x % 32 == 0) {
    for (int i = 0; i < 3; ++i) {
      shared[warp][i] = x[i];
    }
  }
  __syncthreads();
  for (int i = 0; i < 3; ++i) {
    x[i] = 0;
    for (int w = 0; w < OneToken::kThreads / 32; ++w) {
      x[i] += shared[w][i];
    }
  }
}

__global__ void __launch_bounds__(OneToken::kThreads) one_token_kernel(const OneToken c) {
  constexpr int kGroups = 32, kEach = OneToken::kMostRows / kGroups;
  __shared__ float q[OneToken::kMostRows], k[OneToken::kMostRows];
  __shared__ float of_warp[OneToken::kThreads / 32][3];
  __shared__ float sums[OneToken::kThreads / 32][2][OneToken::kColumns];
  __shared__ float written[OneToken::kColumns];
  const int tiles = (c.dv + OneToken::kColumns - 1) / OneToken::kColumns;
  const int tile = static_cast<int>(blockIdx.x) % tiles, at = static_cast<int>(blockIdx.x) / tiles;
  const int row = at / c.heads, head = at % c.heads, t = static_cast<int>(threadIdx.x);
  const int group = t / 8, in_tile = t % 8 * 4, column = tile * OneToken::kColumns + in_tile;
  const Index state = Index{at} * c.dk * c.dv + column;
  float s[kEach][4] = {};
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int r = group + kGroups * i;
    if (c.s0 && r < c.dk && column < c.dv) {
      cuda::load(c.s0 + state + Index{r} * c.dv, s[i]);
    }
  }
  const float x = t < c.dk ? cuda::to_acc<float>(c.q.at(row, 0, head / c.group)[t]) : 0.f;
  const float y = t < c.dk ? cuda::to_acc<float>(c.k.at(row, 0, head / c.group)[t]) : 0.f;
  float dots[3] = {x * x, y * y, x * y};
  block_sums(dots, of_warp);
  const float of_q = c.normalize ? rsqrtf(dots[0] + float(Op::kNormEps)) : 1.f;
  const float of_k = c.normalize ? rsqrtf(dots[1] + float(Op::kNormEps)) : 1.f;
  q[t] = x * of_q;
  k[t] = y * of_k;
  const float decay = c.g ? __expf(c.g[at]) : 1.f;
  __syncthreads();
  float along[2][4] = {};  // of k and of q
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int r = group + kGroups * i;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      s[i][j] *= decay;
      along[0][j] += k[r] * s[i][j];
      along[1][j] += q[r] * s[i][j];
    }
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float& e = along[n][j];
      e += __shfl_xor_sync(0xffffffffu, e, 8);
      e += __shfl_xor_sync(0xffffffffu, e, 16);
      if (t % 32 < 8) {
        sums[t / 32][n][in_tile + j] = e;
      }
    }
  }
  __syncthreads();
  if (t < OneToken::kColumns) {
    const int own = tile * OneToken::kColumns + t;
    float both[2] = {};
    for (int w = 0; w < OneToken::kThreads / 32; ++w) {
      both[0] += sums[w][0][t];
      both[1] += sums[w][1][t];
    }
    float u = 0;
    if (own < c.dv) {
      u = __bfloat162float(c.beta[at]) * (cuda::to_acc<float>(c.v.at(row, 0, head)[own]) - both[0]);
      c.o[Index{at} * c.dv + own] =
          __float2bfloat16_rn(c.scale * (both[1] + dots[2] * of_q * of_k * u));
    }
    written[t] = u;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int r = group + kGroups * i;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      s[i][j] += k[r] * written[in_tile + j];
    }
    if (r < c.dk && column < c.dv) {
      cuda::store(c.sT + state + Index{r} * c.dv, s[i]);
    }
  }
}

inline void OneToken::launch() const {
  const int tiles = (dv + kColumns - 1) / kColumns;
  cuda::launch(&one_token_kernel, dim3(static_cast<unsigned>(rows * heads * tiles)), dim3(kThreads),
               0, *this);
}

}  // namespace ls::ops::delta_rule::hopper
