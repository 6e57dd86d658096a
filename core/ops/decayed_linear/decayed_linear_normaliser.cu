// The normaliser of a scan (Normaliser): n before each chunk, and the gradient of n after it, in
// f32. Sums of each chunk by itself, then a walk over the chunks of a chain.
//   n' = exp(G_C) n + sum_t w_t exp(G_C - G_t) k_t
//   dn = exp(G_C) dn' + sum_t read_t below_t q_t
// Moves k (or q) in once; the walk moves 1 KiB a chunk.
#include "core/ops/decayed_linear/decayed_linear_hopper.cuh"

namespace ls::kernels::decayed_linear {
namespace {

using namespace ls::cuda;

struct Arguments {
  GateSource gates;
  const bf16* rows;    // k, or q
  float* sums;         // [record][kDk]
  float* decays;       // [record]
  const float* first;  // n before the first chunk, or its gradient after the last; or null
  float* last;         // or null
  Lanes lanes;
  float scale;
};

/// A block is a chunk: a thread has two columns of every other token.
template <bool kReverse>
__global__ void __launch_bounds__(128) sums_kernel(const Arguments args) {
  __shared__ NormalGates gates;
  __shared__ float2 parts[64];
  const ChunkPlace at(args.lanes.layout, blockIdx.x);
  if (at.valid == 0) {
    return;
  }
  if (threadIdx.x < 32) {
    GateInputs<true> x;
    x.read(args.gates, at.row, at.first + 2 * static_cast<int>(threadIdx.x), at.head,
           at.first + at.valid);
    write_gates<true>(gates, x, args.scale, at.valid, static_cast<int>(threadIdx.x));
  }
  __syncthreads();
  const int pair = static_cast<int>(threadIdx.x) % 64, half = static_cast<int>(threadIdx.x) / 64;
  const auto& weight = kReverse ? gates.sum_read : gates.end;
  const int64_t stride = int64_t{1} * args.lanes.layout.heads * args.lanes.dk;
  const bf16* const from = args.rows +
                           (int64_t{1} * at.row * args.gates.tokens + at.first) * stride +
                           int64_t{1} * at.head * args.lanes.dk + 2 * pair;
  float2 sum = make_float2(0, 0);
  if (2 * pair < args.lanes.dk) {
#pragma unroll 8
    for (int t = half; t < at.valid; t += 2) {
      const uint32_t x = *reinterpret_cast<const uint32_t*>(from + t * stride);
      sum.x += weight[t] * low_bf16(x);
      sum.y += weight[t] * high_bf16(x);
    }
  }
  if (half == 1) {
    parts[pair] = sum;
  }
  __syncthreads();
  if (half == 0) {
    const float2 other = parts[pair];
    reinterpret_cast<float2*>(args.sums + at.record * kDk)[pair] =
        make_float2(sum.x + other.x, sum.y + other.y);
  }
  if (threadIdx.x == 0) {
    args.decays[at.record] = gates.all;
  }
}

/// A block is a chain, a thread a column. Sums become what was there before the chunk.
template <bool kReverse>
__global__ void __launch_bounds__(kDk) walk_kernel(const Arguments args) {
  constexpr int kAhead = 8;
  const Chain chain(args.lanes.layout, blockIdx.x);
  const int column = static_cast<int>(threadIdx.x), dk = args.lanes.dk;
  const int64_t from = kReverse ? chain.end : chain.start, to = kReverse ? chain.start : chain.end;
  const bool there = column < dk;
  float n = args.first && from >= 0 && there ? args.first[from * dk + column] : 0.f;
  for (int c0 = 0; c0 < chain.chunks; c0 += kAhead) {
    float sums[kAhead], decays[kAhead];
    const auto record = [&](int i) {
      return chain.record + (kReverse ? chain.chunks - 1 - c0 - i : c0 + i);
    };
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const bool more = c0 + i < chain.chunks;
      sums[i] = more ? args.sums[record(i) * kDk + column] : 0.f;
      decays[i] = more ? args.decays[record(i)] : 1.f;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (c0 + i < chain.chunks) {
        args.sums[record(i) * kDk + column] = n;
        n = decays[i] * n + sums[i];
      }
    }
  }
  if (args.last && to >= 0 && there) {
    args.last[to * dk + column] = n;
  }
}

template <bool kReverse>
cudaError_t run(const LinearSizes& z, const Arguments& args, cudaStream_t stream) {
  const auto size = [](auto n) { return static_cast<unsigned>(n); };
  sums_kernel<kReverse><<<size(z.records()), 128, 0, stream>>>(args);
  if (const cudaError_t e = cudaGetLastError()) {
    return e;
  }
  walk_kernel<kReverse><<<size(z.chains()), kDk, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t normaliser_sums(const LinearSizes& z, const LinearInputs& in, bool reverse,
                            void* places, float* decays, cudaStream_t stream) {
  if (z.queries() != z.lanes() || z.keys() != z.lanes() || z.parts() > 1) {
    return cudaErrorInvalidValue;
  }
  const Lanes lanes = lanes_in(z, in.offsets, places);
  if (in.offsets) {
    if (const cudaError_t e = find_places(lanes.layout, z.documents, stream)) {
      return e;
    }
  }
  const Normaliser& normal = *in.normaliser;
  Arguments args{gates_of(z, in), in.k,         normal.sums, decays,
                 normal.n0,       normal.n_end, lanes,       z.scale};
  if (!reverse) {
    return run<false>(z, args, stream);
  }
  args.rows = in.q;
  args.sums = normal.dsums;
  args.first = normal.gn_end;
  args.last = normal.dn0;
  return run<true>(z, args, stream);
}

}  // namespace ls::kernels::decayed_linear
