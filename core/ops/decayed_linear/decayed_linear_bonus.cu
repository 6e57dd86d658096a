// The bonus of decayed linear attention beside the kernels of gates by channel: what a token reads
// of its own write. A warp has a token and head, four channels a thread: rows are read and written
// as 8 bytes a thread. With r_t = sum q u k and w_t = scale (dO_t . v_t):
//   o_t += scale r_t v_t    dv_t += scale r_t dO_t    dq_t += w_t u k_t    dk_t += w_t u q_t
//   du = sum over tokens of w_t q_t k_t, in segments of kSegment tokens, then over them
#include "core/backend/cuda/device/tile.cuh"
#include "core/ops/decayed_linear/decayed_linear_hopper.h"

namespace ls::kernels::decayed_linear {
namespace {

using namespace ls::cuda;

constexpr int kWarps = 8, kSegment = 256;

struct Arguments {
  const bf16 *q, *k, *v, *go;
  const float* u;
  bf16 *o, *dq, *dk, *dv;
  float* partial;  // [segment,head,Dk] or null
  int64_t tokens;  // of all rows
  int heads, share, dk_size, dv_size;
  float scale;
};

/// Four channels of a thread, zeros behind the end.
struct Four {
  float x[4];
  __device__ void load(const bf16* row, int size, int lane) {
    uint2 pack = make_uint2(0, 0);
    if (4 * lane < size) {
      pack = *reinterpret_cast<const uint2*>(row + 4 * lane);
    }
    x[0] = low_bf16(pack.x);
    x[1] = high_bf16(pack.x);
    x[2] = low_bf16(pack.y);
    x[3] = high_bf16(pack.y);
  }
  __device__ void load(const float* row, int size, int lane) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = 4 * lane < size ? row[4 * lane + i] : 0.f;
    }
  }
  /// row += by * this
  __device__ void add_to(bf16* row, float by, int size, int lane) const {
    if (4 * lane < size) {
      Four sum;
      sum.load(row, size, lane);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sum.x[i] += by * x[i];
      }
      *reinterpret_cast<uint2*>(row + 4 * lane) =
          make_uint2(pack_bf16(sum.x[0], sum.x[1]), pack_bf16(sum.x[2], sum.x[3]));
    }
  }
  __device__ Four times(const Four& y) const {
    return {{x[0] * y.x[0], x[1] * y.x[1], x[2] * y.x[2], x[3] * y.x[3]}};
  }
  /// Over the warp.
  __device__ float dot(const Four& y) const {
    float sum = x[0] * y.x[0] + x[1] * y.x[1] + x[2] * y.x[2] + x[3] * y.x[3];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, step);
    }
    return sum;
  }
};

__global__ void __launch_bounds__(32 * kWarps) bonus_kernel(const Arguments args) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t row = int64_t{blockIdx.x} * kWarps + warp;  // token and head
  if (row >= args.tokens * args.heads) {
    return;
  }
  Four q, k, v, u;
  q.load(args.q + row * args.dk_size, args.dk_size, lane);
  k.load(args.k + row * args.dk_size, args.dk_size, lane);
  v.load(args.v + row * args.dv_size, args.dv_size, lane);
  u.load(args.u + row % args.heads / args.share * args.dk_size, args.dk_size, lane);
  v.add_to(args.o + row * args.dv_size, args.scale * q.dot(k.times(u)), args.dv_size, lane);
}

/// Block: a segment and a head.
__global__ void __launch_bounds__(32 * kWarps) bonus_gradients_kernel(const Arguments args) {
  __shared__ float sums[kWarps][32][4];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int head = static_cast<int>(blockIdx.x) % args.heads;
  const int64_t segment = blockIdx.x / args.heads, begin = segment * kSegment;
  const int64_t end = begin + kSegment < args.tokens ? begin + kSegment : args.tokens;
  Four u, du{};
  u.load(args.u + head / args.share * args.dk_size, args.dk_size, lane);
  for (int64_t t = begin + warp; t < end; t += kWarps) {
    const int64_t row = t * args.heads + head;
    Four q, k, v, go;
    q.load(args.q + row * args.dk_size, args.dk_size, lane);
    k.load(args.k + row * args.dk_size, args.dk_size, lane);
    v.load(args.v + row * args.dv_size, args.dv_size, lane);
    go.load(args.go + row * args.dv_size, args.dv_size, lane);
    const float w = args.scale * go.dot(v);
    go.add_to(args.dv + row * args.dv_size, args.scale * q.dot(k.times(u)), args.dv_size, lane);
    u.times(k).add_to(args.dq + row * args.dk_size, w, args.dk_size, lane);
    u.times(q).add_to(args.dk + row * args.dk_size, w, args.dk_size, lane);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      du.x[i] += w * q.x[i] * k.x[i];
    }
  }
  if (!args.partial) {
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sums[warp][lane][i] = du.x[i];
  }
  __syncthreads();
  const int c = static_cast<int>(threadIdx.x);
  if (c < args.dk_size) {
    float sum = 0;
    for (const auto& of_warp : sums) {
      sum += of_warp[c / 4][c % 4];
    }
    args.partial[(segment * args.heads + head) * args.dk_size + c] = sum;
  }
}

/// Block: a bonus; its heads follow each other.
__global__ void __launch_bounds__(128)
    sum_bonus_kernel(const float* partial, float* du, int64_t segments, int heads, int share,
                     int dk) {
  const int c = static_cast<int>(threadIdx.x);
  if (c >= dk) {
    return;
  }
  float sum = 0;
  for (int64_t s = 0; s < segments; ++s) {
    for (int h = 0; h < share; ++h) {
      sum += partial[(s * heads + static_cast<int>(blockIdx.x) * share + h) * dk + c];
    }
  }
  du[static_cast<int64_t>(blockIdx.x) * dk + c] = sum;
}

Arguments arguments(const LinearSizes& z, const ChannelInputs& in, const Bonus& bonus) {
  Arguments args{};
  args.q = in.q;
  args.k = in.k;
  args.v = in.v;
  args.u = bonus.u;
  args.tokens = int64_t{z.batch} * z.tokens;
  args.heads = z.heads;
  args.share = z.heads / bonus.heads;
  args.dk_size = z.dk;
  args.dv_size = z.dv;
  args.scale = z.scale;
  return args;
}
int64_t segments(const LinearSizes& z) {
  return (int64_t{z.batch} * z.tokens + kSegment - 1) / kSegment;
}

}  // namespace

cudaError_t add_bonus(const LinearSizes& z, const ChannelInputs& in, const Bonus& bonus, bf16* o,
                      cudaStream_t stream) {
  Arguments args = arguments(z, in, bonus);
  args.o = o;
  const int64_t blocks = (args.tokens * z.heads + kWarps - 1) / kWarps;
  bonus_kernel<<<static_cast<unsigned>(blocks), 32 * kWarps, 0, stream>>>(args);
  return cudaGetLastError();
}

std::size_t bonus_workspace(const LinearSizes& z) {
  return static_cast<std::size_t>(segments(z) * z.heads * z.dk) * sizeof(float);
}

cudaError_t add_bonus_gradients(const LinearSizes& z, const ChannelInputs& in, const Bonus& bonus,
                                const bf16* go, void* workspace, const LinearGradients& out,
                                float* du, cudaStream_t stream) {
  Arguments args = arguments(z, in, bonus);
  args.go = go;
  args.dq = out.q;
  args.dk = out.k;
  args.dv = out.v;
  args.partial = du ? static_cast<float*>(workspace) : nullptr;
  bonus_gradients_kernel<<<static_cast<unsigned>(segments(z) * z.heads), 32 * kWarps, 0, stream>>>(
      args);
  if (const cudaError_t e = cudaGetLastError()) return e;
  if (du) {
    sum_bonus_kernel<<<static_cast<unsigned>(bonus.heads), 128, 0, stream>>>(
        args.partial, du, segments(z), z.heads, args.share, z.dk);
  }
  return cudaGetLastError();
}

}  // namespace ls::kernels::decayed_linear
