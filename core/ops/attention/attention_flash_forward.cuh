#pragma once
// Forward of attention on tensor cores: a block is kRows query rows of a key head. The softmax runs
// over tiles of keys with a running maximum; with few queries the keys are split between blocks,
// whose sums Merge joins in their order.
#include "core/ops/attention/attention_flash.cuh"

namespace ls::ops::attention::flash {

template <class T, int kD, int kBlocks, int kWarps, int kN>
struct ForwardShared {
  static constexpr int kRows = 16 * kBlocks * kWarps;
  alignas(16) unsigned char q[kRows * kPitch<T, kD>];
  alignas(16) unsigned char k[2][kN * kPitch<T, kD>], v[2][kN * kPitch<T, kD>];
  Limits limits[kRows];
  Reach reach;
};

template <class T, int kD, int kBlocks, int kWarps, int kN, bool kOptions>
class ForwardTile {
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kSteps = kD / kStep<T>;

 public:
  using Shared = ForwardShared<T, kD, kBlocks, kWarps, kN>;
  static constexpr int kRows = Shared::kRows;

  __device__ ForwardTile(const Here<T>& at, Shared& m, int r0, int part)
      : at_(at),
        m_(m),
        r0_(r0),
        part_(part),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        unit_(kOptions ? 1.f : at.call.scale * cuda::kLog2e) {}

  __device__ void run() {
    find_reach();
    int j = m_.reach.begin() / kN * kN, end = m_.reach.end();
    if (at_.extra.splits > 1) {  // by tiles
      const int tiles = end > j ? (end - j + kN - 1) / kN : 0;
      const int each = (tiles + at_.extra.splits - 1) / at_.extra.splits;
      j += part_ * each * kN;
      end = min(end, j + each * kN);
    }
    j = next(j, end);
    bring_queries<T, kD, kRows, kThreads>(m_.q, at_, at_.call.q, r0_, static_cast<int>(at_.call.dk),
                                          at_.extra.q_pieces);
    bring(j, end, 0);
    clear();
    for (int stage = 0; j < end; stage ^= 1) {
      const int after = next(j + kN, end);
      cuda::wait_copies<0>();
      __syncthreads();
      bring(after, end, stage ^ 1);
      add(j, stage);
      j = after;
    }
    cuda::wait_copies<0>();
    __syncthreads();
    finish();
  }

 private:
  __device__ void find_reach() {
    if (threadIdx.x == 0) {
      m_.reach.clear();
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kRows; i += kThreads) {
      m_.limits[i] = at_.limits(r0_ + i);
      if (r0_ + i < at_.rows) {
        m_.reach.add(m_.limits[i]);
      }
    }
    __syncthreads();
  }
  /// The first tile from j on of which something may be visible.
  __device__ int next(int j, int end) const {
    while (j < end && !m_.reach.any(j, kN)) {
      j += kN;
    }
    return j;
  }
  __device__ void bring(int j, int end, int stage) {
    if (j < end) {
      const Call<T>& c = at_.call;
      bring_keys<T, kD, kN, kThreads>(m_.k[stage], at_, c.k0, c.k, j, static_cast<int>(c.dk),
                                      at_.extra.k_pieces);
      bring_keys<T, kD, kN, kThreads>(m_.v[stage], at_, c.v0, c.v, j, static_cast<int>(c.dv),
                                      at_.extra.v_pieces);
    }
    cuda::commit_copies();
  }
  __device__ int row(int m, int half) const {
    return (warp_ * kBlocks + m) * 16 + lane_ / 4 + 8 * half;
  }
  __device__ void clear() {
#pragma unroll
    for (int m = 0; m < kBlocks; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        top_[m][half] = -INFINITY;
        sum_[m][half] = 0;
        const int r = r0_ + row(m, half);
        if (at_.call.sink && part_ == 0 && r < at_.rows) {
          top_[m][half] = at_.call.sink[at_.head(r)] * cuda::kLog2e / unit_;
          sum_[m][half] = lane_ % 4 == 0 ? 1.f : 0.f;
        }
      }
#pragma unroll
      for (auto& d : out_[m]) {
        d[0] = d[1] = d[2] = d[3] = 0;
      }
    }
  }
  __device__ void add(int j, int stage) {
    float s[kBlocks][kN / 8][4];
#pragma unroll
    for (auto& block : s) {
#pragma unroll
      for (auto& d : block) {
        d[0] = d[1] = d[2] = d[3] = 0;
      }
    }
    const uint32_t q = cuda::smem_addr(m_.q), k = cuda::smem_addr(m_.k[stage]);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      Left<T> a[kBlocks];
#pragma unroll
      for (int m = 0; m < kBlocks; ++m) {
        cuda::load_left<T, kPitch<T, kD>>(a[m], q, (warp_ * kBlocks + m) * 16, step, lane_);
      }
#pragma unroll
      for (int n = 0; n < kN / 16; ++n) {
        Right<T> b;
        cuda::load_right<T, kPitch<T, kD>>(b, k, 16 * n, step, lane_);
#pragma unroll
        for (int m = 0; m < kBlocks; ++m) {
          cuda::multiply<T>(s[m][2 * n], s[m][2 * n + 1], a[m], b);
        }
      }
    }
    const bool masked = !m_.reach.all(j, kN);
#pragma unroll
    for (int m = 0; m < kBlocks; ++m) {
      if constexpr (kOptions) {
        apply_options(s[m], m, j);
      }
      if (masked) {
        hide(s[m], m, j);
      }
      weigh(s[m], m);
    }
    const uint32_t v = cuda::smem_addr(m_.v[stage]);
#pragma unroll
    for (int step = 0; step < kN / kStep<T>; ++step) {
      Left<T> a[kBlocks];
#pragma unroll
      for (int m = 0; m < kBlocks; ++m) {
        cuda::as_left<T>(a[m], s[m], step);
      }
#pragma unroll
      for (int n = 0; n < kD / 16; ++n) {
        Right<T> b;
        cuda::load_right_t<T, kPitch<T, kD>>(b, v, step, 16 * n, lane_);
#pragma unroll
        for (int m = 0; m < kBlocks; ++m) {
          cuda::multiply<T>(out_[m][2 * n], out_[m][2 * n + 1], a[m], b);
        }
      }
    }
  }
  __device__ void apply_options(float (&s)[kN / 8][4], int m, int j) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = min(r0_ + row(m, half), at_.rows - 1), ahead = at_.position(at_.token(r)) - j;
      const float slope = at_.call.slopes ? at_.call.slopes[at_.head(r)] : 0.f;
#pragma unroll
      for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int column = 8 * n + 2 * (lane_ % 4) + i;
          s[n][2 * half + i] = logit(at_.call, s[n][2 * half + i], slope, ahead - column).x;
        }
      }
    }
  }
  __device__ void hide(float (&s)[kN / 8][4], int m, int j) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Limits x = m_.limits[row(m, half)];
#pragma unroll
      for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (!x.visible(j + 8 * n + 2 * (lane_ % 4) + i)) {
            s[n][2 * half + i] = -INFINITY;
          }
        }
      }
    }
  }
  /// s becomes exp(s - top), what was summed before goes by the new top.
  __device__ void weigh(float (&s)[kN / 8][4], int m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = top_[m][half];
#pragma unroll
      for (int n = 0; n < kN / 8; ++n) {
        top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      }
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      const float base = top == -INFINITY ? 0.f : top * unit_;
      const float keep = cuda::exp2_fast(top_[m][half] * unit_ - base);
      top_[m][half] = top;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float p = cuda::exp2_fast(s[n][2 * half + i] * unit_ - base);
          s[n][2 * half + i] = p;
          sum += p;
        }
      }
      sum_[m][half] = sum_[m][half] * keep + sum;
#pragma unroll
      for (auto& d : out_[m]) {
        d[2 * half] *= keep;
        d[2 * half + 1] *= keep;
      }
    }
  }
  __device__ void finish() {
#pragma unroll
    for (int m = 0; m < kBlocks; ++m) {
      float over[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = sum_[m][half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        over[half] = sum > 0 ? 1 / sum : 0.f;
        const int r = r0_ + row(m, half);
        if (r < at_.rows && lane_ % 4 == 0) {
          store_sum(r, top_[m][half] * unit_, sum);
        }
      }
      if (at_.extra.partial) {
        store_partial(m);
      } else {
        put_sums<T, kD>(m_.q, out_[m], (warp_ * kBlocks + m) * 16, over[0], over[1], lane_);
      }
    }
    if (at_.extra.partial) {
      return;
    }
    __syncwarp();
    const int first = warp_ * kBlocks * 16;
    put_rows<T, kD, kBlocks * 16>(m_.q + first * kPitch<T, kD>, static_cast<int>(at_.call.dv),
                                  at_.extra.o_pieces, lane_, [&](int i) -> T* {
                                    const int r = r0_ + first + i;
                                    return r < at_.rows ? at_.row(at_.call.o, r) : nullptr;
                                  });
  }
  __device__ float* partial(int r) const {
    const Call<T>& c = at_.call;
    const int64_t all = c.batch * (c.q_heads / at_.group) * at_.extra.stride;
    return at_.extra.partial + (part_ * all + at_.place(r)) * (c.dv + 2);
  }
  __device__ void store_sum(int r, float top, float sum) const {
    if (at_.extra.partial) {
      float* const to = partial(r) + at_.call.dv;
      to[0] = top;
      to[1] = sum;
      return;
    }
    at_.call.lse[at_.call.row(at_.b, at_.token(r), at_.head(r))] =
        sum > 0 ? top * (1 / cuda::kLog2e) + logf(sum) : -INFINITY;
  }
  __device__ void store_partial(int m) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = r0_ + row(m, half);
      if (r >= at_.rows) {
        continue;
      }
      float* const to = partial(r);
#pragma unroll
      for (int n = 0; n < kD / 8; ++n) {
        const int c = 8 * n + 2 * (lane_ % 4);
        if (c < at_.call.dv) {
          to[c] = out_[m][n][2 * half];
        }
        if (c + 1 < at_.call.dv) {
          to[c + 1] = out_[m][n][2 * half + 1];
        }
      }
    }
  }

  const Here<T>& at_;
  Shared& m_;
  const int r0_, part_, warp_, lane_;
  const float unit_;  ///< from products to log2
  float out_[kBlocks][kD / 8][4];
  float top_[kBlocks][2], sum_[kBlocks][2];
};

template <class T, int kD, int kBlocks, int kWarps, int kN, bool kOptions>
__global__ void __launch_bounds__(32 * kWarps)
    forward_kernel(const __grid_constant__ Call<T> call, const __grid_constant__ Extra extra) {
  using Tile = ForwardTile<T, kD, kBlocks, kWarps, kN, kOptions>;
  extern __shared__ __align__(16) unsigned char memory[];
  const int part = static_cast<int>(blockIdx.z) % extra.splits;
  const int b = static_cast<int>(blockIdx.z) / extra.splits;
  const Here<T> at(call, extra, b, static_cast<int>(blockIdx.y));
  // The last queries see the most keys: first.
  const int r0 = static_cast<int>(gridDim.x - 1 - blockIdx.x) * Tile::kRows;
  Tile tile(at, *reinterpret_cast<typename Tile::Shared*>(memory), r0, part);
  tile.run();
}

/// A warp is a query row; sums of the parts in their order.
template <class T>
__global__ void __launch_bounds__(128)
    merge_kernel(const __grid_constant__ Call<T> call, const __grid_constant__ Extra extra) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t all = call.batch * (call.q_heads / call.group) * extra.stride;
  const int64_t place = blockIdx.x * 4 + threadIdx.x / 32;
  if (place >= all) {
    return;
  }
  const int64_t heads = call.q_heads / call.group, width = call.dv + 2;
  const int r = static_cast<int>(place % extra.stride);
  const Here<T> at(call, extra, static_cast<int>(place / extra.stride / heads),
                   static_cast<int>(place / extra.stride % heads));
  const float* const from = extra.partial + place * width;
  float top = -INFINITY, sum = 0;
  for (int i = 0; i < extra.splits; ++i) {
    top = fmaxf(top, from[i * all * width + call.dv]);
  }
  const float base = top == -INFINITY ? 0.f : top;
  for (int i = 0; i < extra.splits; ++i) {
    const float* const x = from + i * all * width + call.dv;
    sum += exp2f(x[0] - base) * x[1];
  }
  const int t = at.token(r), h = at.head(r);
  T* const to = call.o.at(at.b, t, h);
  for (int c = lane; c < call.dv; c += 32) {
    float o = 0;
    for (int i = 0; i < extra.splits; ++i) {
      const float* const x = from + i * all * width;
      o += exp2f(x[call.dv] - base) * x[c];
    }
    to[c] = convert<T>(sum > 0 ? o / sum : 0.f);
  }
  if (lane == 0) {
    call.lse[call.row(at.b, t, h)] = sum > 0 ? top * (1 / cuda::kLog2e) + logf(sum) : -INFINITY;
  }
}

/// A block is kBoundTokens queries of a row, a thread each.
template <class T>
__global__ void __launch_bounds__(kBoundTokens)
    bounds_kernel(const __grid_constant__ Call<T> call, int2* bounds, int4* tiles) {
  __shared__ int least_first, last_end, last_first, least_end;
  const int64_t b = blockIdx.y, t = blockIdx.x * static_cast<int64_t>(kBoundTokens) + threadIdx.x;
  if (threadIdx.x == 0) {
    least_first = least_end = 0x7fffffff;
    last_first = last_end = 0;
  }
  __syncthreads();
  if (t < call.queries) {
    Index first, end;
    call.find_bounds(b, t, first, end);
    const int2 own = make_int2(static_cast<int>(first), static_cast<int>(end));
    bounds[b * call.queries + t] = own;
    atomicMin(&least_first, own.x);
    atomicMax(&last_first, own.x);
    atomicMin(&least_end, own.y);
    atomicMax(&last_end, own.y);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    tiles[b * gridDim.x + blockIdx.x] = make_int4(least_first, last_end, last_first, least_end);
  }
}
template <class T>
void find_bounds(const Call<T>& call, int2* bounds, int4* tiles) {
  const dim3 grid(static_cast<unsigned>(cuda::blocks_for(call.queries, kBoundTokens)),
                  static_cast<unsigned>(call.batch));
  cuda::launch(&bounds_kernel<T>, grid, dim3(kBoundTokens), 0, call, bounds, tiles);
}

/// Outgoing caches from row `first` on, 16 bytes a thread; a block is a row of them.
template <class T>
__global__ void __launch_bounds__(128)
    keep_kernel(const __grid_constant__ Call<T> call, Index first) {
  const Index i = first + blockIdx.x, b = blockIdx.y, j = call.keys() - call.out_rows + i;
  const int heads = static_cast<int>(call.q_heads / call.group);
  constexpr int kElements = 16 / static_cast<int>(sizeof(T));
  const auto copy = [&](const Rows<const T>& cache, const Rows<const T>& rows, const Rows<T>& to,
                        int d) {
    const int pieces = d / kElements;
    for (int e = static_cast<int>(threadIdx.x); e < heads * pieces; e += 128) {
      const int h = e / pieces, c = e % pieces * kElements;
      *reinterpret_cast<uint4*>(to.at(b, i, h) + c) =
          *reinterpret_cast<const uint4*>(call.at(cache, rows, b, j, h) + c);
    }
  };
  copy(call.k0, call.k, call.kT, static_cast<int>(call.dk));
  copy(call.v0, call.v, call.vT, static_cast<int>(call.dv));
}
/// The rows of the incoming cache stand where the outgoing one has them.
template <class T>
bool in_place(const Rows<const T>& cache, const Rows<T>& to, Index dropped) {
  return cache && cache.at(0, dropped, 0) == to.base && cache.b == to.b && cache.t == to.t &&
         cache.h == to.h;
}
template <class T>
bool keep(const Call<T>& call) {
  constexpr Index n = 16 / Index{sizeof(T)};
  const bool pieces = in_pieces(call.k0) && in_pieces(call.k) && in_pieces(call.kT) &&
                      in_pieces(call.v0) && in_pieces(call.v) && in_pieces(call.vT) &&
                      call.dk % n == 0 && call.dv % n == 0;
  if (!pieces) {
    return false;
  }
  const Index dropped = call.cache_rows + call.own - call.out_rows;
  const bool stay = dropped < call.cache_rows && in_place(call.k0, call.kT, dropped) &&
                    in_place(call.v0, call.vT, dropped);
  const Index first = stay ? call.cache_rows - dropped : 0;
  cuda::launch(
      &keep_kernel<T>,
      dim3(static_cast<unsigned>(call.out_rows - first), static_cast<unsigned>(call.batch)),
      dim3(128), 0, call, first);
  return true;
}

/// A block is a token with all its heads.
template <class T>
__global__ void __launch_bounds__(128)
    copy_kernel(Rows<const T> from, Rows<T> to, int heads, int d) {
  const Index t = blockIdx.x, b = blockIdx.y;
  for (int e = static_cast<int>(threadIdx.x); e < heads * d; e += 128) {
    to.at(b, t, e / d)[e % d] = from.at(b, t, e / d)[e % d];
  }
}
template <class T>
void copy_rows(const Rows<const T>& from, const Rows<T>& to, Index batch, Index tokens, Index heads,
               Index d) {
  cuda::launch(&copy_kernel<T>, dim3(static_cast<unsigned>(tokens), static_cast<unsigned>(batch)),
               dim3(128), 0, from, to, static_cast<int>(heads), static_cast<int>(d));
}

template <class T>
bool plain(const Call<T>& call) {
  return call.scale > 0 && !(call.softcap > 0) && !call.slopes;
}

template <class T, int kD, int kBlocks, int kWarps, int kN, bool kOptions>
void launch_forward(const Call<T>& call, const Extra& extra) {
  using Shared = ForwardShared<T, kD, kBlocks, kWarps, kN>;
  const dim3 grid(static_cast<unsigned>(cuda::blocks_for(extra.rows, Shared::kRows)),
                  static_cast<unsigned>(call.q_heads / call.group),
                  static_cast<unsigned>(call.batch * extra.splits));
  cuda::launch(&forward_kernel<T, kD, kBlocks, kWarps, kN, kOptions>, grid, dim3(32 * kWarps),
               sizeof(Shared), call, extra);
  if (extra.partial) {
    const Index all = call.batch * (call.q_heads / call.group) * extra.stride;
    cuda::launch(&merge_kernel<T>, dim3(static_cast<unsigned>(cuda::blocks_for(all, 4))), dim3(128),
                 0, call, extra);
  }
}

inline constexpr int kSplitKeys = 32;  ///< keys of a tile of a warp that works alone

template <class T, int kD>
void forward_of(const Call<T>& call, const Extra& extra) {
  using S = Sizes<T, kD>;
  if (extra.splits > 1) {
    launch_forward<T, kD, 1, 1, kSplitKeys, true>(call, extra);
    return;
  }
  if constexpr (!S::kWide) {
    if (plain(call)) {
      launch_forward<T, kD, S::kForwardBlocks, S::kForwardWarps, S::kForwardKeys, false>(call,
                                                                                         extra);
      return;
    }
  }
  launch_forward<T, kD, S::kForwardBlocks, S::kForwardWarps, S::kForwardKeys, true>(call, extra);
}

/// f.template operator()<kD>() with the least width that holds the call's heads.
template <class T, class F>
void with_width(const Call<T>& call, F&& f) {
  const Index most = std::max(call.dk, call.dv);
  if (most <= 32) {
    f.template operator()<32>();
  } else if (most <= 64) {
    f.template operator()<64>();
  } else {
    f.template operator()<128>();
  }
}

template <class T>
void forward(const Call<T>& call, const Extra& extra) {
  with_width(call, [&]<int kD>() { forward_of<T, kD>(call, extra); });
}

template <class T>
int splits_of(const Call<T>& call, int processors) {
  constexpr Index kFewRows = 16, kBlocks = 6, kLeastTiles = 2;
  const Index rows = call.queries * call.group;
  const Index keys = call.cache_rows + call.own;
  const Index blocks = call.batch * (call.q_heads / call.group);
  if (rows > kFewRows || blocks == 0) {
    return 1;
  }
  const Index most = keys / (kSplitKeys * kLeastTiles);
  return static_cast<int>(
      std::clamp<Index>(processors * kBlocks / blocks, 1, std::max<Index>(most, 1)));
}

}  // namespace ls::ops::attention::flash
