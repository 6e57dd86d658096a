#pragma once
// Backward of attention on tensor cores, twice over the pairs: QueryTile owns queries and sums dq
// over the keys, KeyTile owns keys and sums dk and dv over the queries of all heads that read them.
// Scores are made again in both, so that no sum is shared between blocks and the order is fixed.
#include "core/ops/attention/attention_flash.cuh"
#include "core/ops/attention/attention_flash_forward.cuh"

namespace ls::ops::attention::flash {

template <class T, int kD>
struct QueryShared {
  static constexpr int kRows = 16 * Sizes<T, kD>::kWarps, kN = Sizes<T, kD>::kOthers;
  alignas(16) unsigned char q[kRows * kPitch<T, kD>], go[kRows * kPitch<T, kD>];
  alignas(16) unsigned char k[2][kN * kPitch<T, kD>], v[2][kN * kPitch<T, kD>];
  Limits limits[kRows];
  Reach reach;
};

template <class T, int kD, bool kOptions>
class QueryTile {
 public:
  using Shared = QueryShared<T, kD>;
  static constexpr int kRows = Shared::kRows, kN = Shared::kN;
  static constexpr int kThreads = 32 * Sizes<T, kD>::kWarps;

  __device__ QueryTile(const Here<T>& at, Shared& m, int r0)
      : at_(at),
        m_(m),
        r0_(r0),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ void run() {
    find_reach();
    const Call<T>& c = at_.call;
    const int end = m_.reach.end();
    int j = next(m_.reach.begin() / kN * kN, end);
    bring_queries<T, kD, kRows, kThreads>(m_.q, at_, c.q, r0_, static_cast<int>(c.dk),
                                          at_.extra.q_pieces);
    bring_queries<T, kD, kRows, kThreads>(m_.go, at_, c.go, r0_, static_cast<int>(c.dv),
                                          at_.extra.go_pieces);
    bring(j, end, 0);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = r0_ + row(half);
      statistics_[half] =
          r < at_.rows ? at_.extra.statistics[at_.place(r)] : make_float2(INFINITY, 0);
    }
#pragma unroll
    for (auto& d : dq_) {
      d[0] = d[1] = d[2] = d[3] = 0;
    }
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
    store();
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
  __device__ int row(int half) const {
    return warp_ * 16 + lane_ / 4 + 8 * half;
  }

  __device__ void add(int j, int stage) {
    float s[kN / 8][4] = {}, ds[kN / 8][4] = {};
    float derivative[kOptions ? kN / 8 : 1][4];
    const uint32_t k = cuda::smem_addr(m_.k[stage]);
    add_dots<T, kD, kN>(s, cuda::smem_addr(m_.q), 16 * warp_, k, lane_);
    add_dots<T, kD, kN>(ds, cuda::smem_addr(m_.go), 16 * warp_, cuda::smem_addr(m_.v[stage]),
                        lane_);
    const bool masked = !m_.reach.all(j, kN);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Limits limits = masked ? m_.limits[row(half)] : Limits{};
      const int r = min(r0_ + row(half), at_.rows - 1);
      const int ahead = kOptions ? at_.position(at_.token(r)) - j : 0;
      const float slope = kOptions && at_.call.slopes ? at_.call.slopes[at_.head(r)] : 0.f;
#pragma unroll
      for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int column = 8 * n + 2 * (lane_ % 4) + i, e = 2 * half + i;
          float x = s[n][e] * (at_.call.scale * cuda::kLog2e);
          if constexpr (kOptions) {
            const float2 y = logit(at_.call, s[n][e], slope, ahead - column);
            x = y.x;
            derivative[n][e] = y.y;
          }
          float p = cuda::exp2_fast(x - statistics_[half].x);
          p = masked && !limits.visible(j + column) ? 0.f : p;
          ds[n][e] = p * (ds[n][e] - statistics_[half].y);
          if constexpr (kOptions) {
            ds[n][e] *= derivative[n][e];
          }
        }
      }
    }
    add_product<T, kD, kN>(dq_, ds, k, lane_);
  }
  __device__ void store() {
    const float factor = kOptions ? 1.f : at_.call.scale;
    put_sums<T, kD>(m_.q, dq_, 16 * warp_, factor, factor, lane_);
    __syncwarp();
    const bool pieces = in_pieces(at_.call.dq);
    put_rows<T, kD, 16>(m_.q + 16 * warp_ * kPitch<T, kD>, static_cast<int>(at_.call.dk), pieces,
                        lane_, [&](int i) -> T* {
                          const int r = r0_ + 16 * warp_ + i;
                          return r < at_.rows ? at_.row(at_.call.dq, r) : nullptr;
                        });
  }

  const Here<T>& at_;
  Shared& m_;
  const int r0_, warp_, lane_;
  float dq_[kD / 8][4];
  float2 statistics_[2];
};

/// Which tiles of kN query rows see something of kRows keys from j0 on.
template <class T, int kRows, int kN>
struct Watchers {
  const Here<T>& at;
  const int j0;
  __device__ Watchers(const Here<T>& here, int key) : at(here), j0(key) {}

  /// Tokens of the query rows r0 .. and what holds for their documents.
  struct Queries {
    int first, last;
    int4 bounds;
  };
  __device__ Queries queries(int r0) const {
    Queries x{at.token(r0), at.token(min(r0 + kN, at.rows) - 1), make_int4(0, at.keys, 0, at.keys)};
    if (at.extra.tiles) {
      const int groups = static_cast<int>((at.call.queries + kBoundTokens - 1) / kBoundTokens);
      const int4* const tiles = at.extra.tiles + static_cast<int64_t>(at.b) * groups;
      const int4 a = tiles[x.first / kBoundTokens], b = tiles[x.last / kBoundTokens];
      x.bounds = make_int4(min(a.x, b.x), max(a.y, b.y), max(a.z, b.z), min(a.w, b.w));
    }
    return x;
  }
  /// Some query of the tile may see some of the block's keys.
  __device__ bool any(int tile) const {
    const Queries x = queries(tile * kN);
    const int window = static_cast<int>(at.call.window), last = j0 + kRows - 1;
    if (j0 >= x.bounds.y || last < x.bounds.x) {
      return false;
    }
    const bool later = at.call.causal && j0 > at.position(x.last);
    const bool far = window > 0 && at.position(x.first) - last >= window;
    return j0 < at.call.prefix || !(later || far);
  }
  /// All of them see all of those.
  __device__ bool all(int tile) const {
    const Queries x = queries(tile * kN);
    const int window = static_cast<int>(at.call.window);
    const int low = window > 0 ? max(x.bounds.z, at.position(x.last) - window + 1) : x.bounds.z;
    const int high = at.call.causal ? min(x.bounds.w, at.position(x.first) + 1) : x.bounds.w;
    return low <= j0 && j0 + kRows <= high;
  }
  __device__ void find_range(int& first, int& last) {
    const int tiles = (at.rows + kN - 1) / kN;
    if (threadIdx.x == 0) {
      first = tiles;
      last = 0;
    }
    __syncthreads();
    int begin = tiles, end = 0;
    for (int i = static_cast<int>(threadIdx.x); i < tiles; i += static_cast<int>(blockDim.x)) {
      if (any(i)) {
        begin = min(begin, i);
        end = i + 1;
      }
    }
    if (end > 0) {
      atomicMin(&first, begin);
      atomicMax(&last, end);
    }
    __syncthreads();
  }
  __device__ int next(int i, int end) const {
    while (i < end && !any(i)) {
      ++i;
    }
    return i;
  }
};

template <class T, int kD>
struct KeyShared {
  static constexpr int kRows = 16 * Sizes<T, kD>::kWarps, kN = Sizes<T, kD>::kOthers;
  alignas(16) unsigned char k[kRows * kPitch<T, kD>], v[kRows * kPitch<T, kD>];
  alignas(16) unsigned char q[2][kN * kPitch<T, kD>], go[2][kN * kPitch<T, kD>];
  alignas(16) float2 statistics[2][kN];
  Limits limits[2][kN];
  int begin, end;  ///< tiles of queries
};

template <class T, int kD, bool kOptions>
class KeyTile {
 public:
  using Shared = KeyShared<T, kD>;
  static constexpr int kRows = Shared::kRows, kN = Shared::kN;
  static constexpr int kThreads = 32 * Sizes<T, kD>::kWarps;

  __device__ KeyTile(const Here<T>& at, Shared& m, int j0)
      : at_(at),
        m_(m),
        j0_(j0),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ void run() {
    const Call<T>& c = at_.call;
    bring_keys<T, kD, kRows, kThreads>(m_.k, at_, c.k0, c.k, j0_, static_cast<int>(c.dk),
                                       at_.extra.k_pieces);
    bring_keys<T, kD, kRows, kThreads>(m_.v, at_, c.v0, c.v, j0_, static_cast<int>(c.dv),
                                       at_.extra.v_pieces);
    Watchers<T, kRows, kN>(at_, j0_).find_range(m_.begin, m_.end);
    const int end = m_.end;
    int i = next(m_.begin, end);
    bring(i, end, 0);
#pragma unroll
    for (int n = 0; n < kD / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        dk_[n][e] = dv_[n][e] = 0;
      }
    }
    for (int stage = 0; i < end; stage ^= 1) {
      const int after = next(i + 1, end);
      cuda::wait_copies<0>();
      __syncthreads();
      bring(after, end, stage ^ 1);
      add(i * kN, stage);
      i = after;
    }
    cuda::wait_copies<0>();
    __syncthreads();
    store(m_.k, dk_, kOptions ? 1.f : c.scale, c.gkT, c.dk0, c.dk_, static_cast<int>(c.dk));
    __syncthreads();
    store(m_.v, dv_, 1.f, c.gvT, c.dv0, c.dv_, static_cast<int>(c.dv));
  }

 private:
  __device__ bool all(int tile) const {
    return Watchers<T, kRows, kN>(at_, j0_).all(tile);
  }
  __device__ int next(int i, int end) const {
    return Watchers<T, kRows, kN>(at_, j0_).next(i, end);
  }
  __device__ void bring(int i, int end, int stage) {
    if (i < end) {
      const Call<T>& c = at_.call;
      const int r0 = i * kN;
      bring_queries<T, kD, kN, kThreads>(m_.q[stage], at_, c.q, r0, static_cast<int>(c.dk),
                                         at_.extra.q_pieces);
      bring_queries<T, kD, kN, kThreads>(m_.go[stage], at_, c.go, r0, static_cast<int>(c.dv),
                                         at_.extra.go_pieces);
      const bool masked = !all(i);
      for (int n = static_cast<int>(threadIdx.x); n < kN; n += kThreads) {
        bring_statistics(m_.statistics[stage][n], r0 + n);
        if (masked) {
          m_.limits[stage][n] = at_.limits(r0 + n);
        }
      }
    }
    cuda::commit_copies();
  }
  __device__ void bring_statistics(float2& to, int r) const {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(cuda::smem_addr(&to)),
                 "l"(at_.extra.statistics + at_.place(r))
                 : "memory");
  }

  __device__ void add(int r0, int stage) {
    float s[kN / 8][4] = {};
    float derivative[kOptions ? kN / 8 : 1][4];
    const uint32_t q = cuda::smem_addr(m_.q[stage]), go = cuda::smem_addr(m_.go[stage]);
    const bool masked = !all(r0 / kN);
    add_dots<T, kD, kN>(s, cuda::smem_addr(m_.k), 16 * warp_, q, lane_);
#pragma unroll
    for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int column = 8 * n + 2 * (lane_ % 4) + i;
        const float sum = m_.statistics[stage][column].x;
        const Limits limits = masked ? m_.limits[stage][column] : Limits{};
        const int r = min(r0 + column, at_.rows - 1);
        const int ahead = kOptions ? at_.position(at_.token(r)) : 0;
        const float slope = kOptions && at_.call.slopes ? at_.call.slopes[at_.head(r)] : 0.f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int e = 2 * half + i, j = j0_ + 16 * warp_ + lane_ / 4 + 8 * half;
          float x = s[n][e] * (at_.call.scale * cuda::kLog2e);
          if constexpr (kOptions) {
            const float2 y = logit(at_.call, s[n][e], slope, ahead - j);
            x = y.x;
            derivative[n][e] = y.y;
          }
          const float p = cuda::exp2_fast(x - sum);
          s[n][e] = masked && !limits.visible(j) ? 0.f : p;
        }
      }
    }
    add_product<T, kD, kN>(dv_, s, go, lane_);
    float ds[kN / 8][4] = {};
    add_dots<T, kD, kN>(ds, cuda::smem_addr(m_.v), 16 * warp_, go, lane_);
#pragma unroll
    for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float delta = m_.statistics[stage][8 * n + 2 * (lane_ % 4) + e % 2].y;
        ds[n][e] = s[n][e] * (ds[n][e] - delta);
        if constexpr (kOptions) {
          ds[n][e] *= derivative[n][e];
        }
      }
    }
    add_product<T, kD, kN>(dk_, ds, q, lane_);
  }

  /// Sums and what comes through the outgoing cache.
  __device__ void store(unsigned char* tile, float (&x)[kD / 8][4], float factor,
                        const Rows<const T>& kept, const Rows<T>& cache, const Rows<T>& own,
                        int d) {
    const int dropped = at_.keys - static_cast<int>(at_.call.out_rows);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int j = j0_ + 16 * warp_ + lane_ / 4 + 8 * half;
      const bool there = kept && j >= dropped && j < at_.keys;
      const T* const from = there ? kept.at(at_.b, j - dropped, at_.kh) : nullptr;
#pragma unroll
      for (int n = 0; n < kD / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int c = 8 * n + 2 * (lane_ % 4) + i;
          x[n][2 * half + i] *= factor;
          if (there && c < d) {
            x[n][2 * half + i] += convert<float>(from[c]);
          }
        }
      }
    }
    put_sums<T, kD>(tile, x, 16 * warp_, 1, 1, lane_);
    __syncwarp();
    const bool pieces = in_pieces(cache) && in_pieces(own);
    put_rows<T, kD, 16>(tile + 16 * warp_ * kPitch<T, kD>, d, pieces, lane_, [&](int i) -> T* {
      const int j = j0_ + 16 * warp_ + i;
      if (j >= at_.keys) {
        return nullptr;
      }
      const bool mine = j >= at_.cached;
      const Rows<T>& to = mine ? own : cache;
      return to ? to.at(at_.b, mine ? j - at_.cached : j, at_.kh) : nullptr;
    });
  }

  const Here<T>& at_;
  Shared& m_;
  const int j0_, warp_, lane_;
  float dk_[kD / 8][4], dv_[kD / 8][4];
};

template <class T, int kD, bool kOptions>
__global__ void __launch_bounds__(QueryTile<T, kD, kOptions>::kThreads)
    query_kernel(const __grid_constant__ Call<T> call, const __grid_constant__ Extra extra) {
  using Tile = QueryTile<T, kD, kOptions>;
  extern __shared__ __align__(16) unsigned char memory[];
  const Here<T> at(call, extra, static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.y));
  Tile tile(at, *reinterpret_cast<typename Tile::Shared*>(memory),
            static_cast<int>(gridDim.x - 1 - blockIdx.x) * Tile::kRows);
  tile.run();
}
template <class T, int kD, bool kOptions>
__global__ void __launch_bounds__(KeyTile<T, kD, kOptions>::kThreads)
    key_kernel(const __grid_constant__ Call<T> call, const __grid_constant__ Extra extra) {
  using Tile = KeyTile<T, kD, kOptions>;
  extern __shared__ __align__(16) unsigned char memory[];
  const Here<T> at(call, extra, static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.y));
  Tile tile(at, *reinterpret_cast<typename Tile::Shared*>(memory),
            static_cast<int>(blockIdx.x) * Tile::kRows);
  tile.run();
}

/// 16 lanes a query row; rows behind the last one weigh nothing.
template <class T>
__global__ void __launch_bounds__(128)
    statistics_kernel(const __grid_constant__ Call<T> call, const __grid_constant__ Extra extra) {
  constexpr int kElements = 16 / static_cast<int>(sizeof(T)), kLanes = 16;
  const int64_t place = blockIdx.x * 8 + threadIdx.x / kLanes;
  const int64_t heads = call.q_heads / call.group, all = call.batch * heads * extra.stride;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t safe = place < all ? place : all - 1;
  const Here<T> at(call, extra, static_cast<int>(safe / extra.stride / heads),
                   static_cast<int>(safe / extra.stride % heads));
  const int place_in_head = static_cast<int>(safe % extra.stride);
  const int r = min(place_in_head, extra.rows - 1), t = at.token(r), h = at.head(r);
  float sum = 0;
  if (call.go) {
    const T* const go = call.go.at(at.b, t, h);
    const T* const o = call.saved_o.at(at.b, t, h);
    for (int c = lane * kElements; c < call.dv; c += kLanes * kElements) {
      alignas(16) T x[kElements], y[kElements];
      if (extra.go_pieces && extra.o_pieces && c + kElements <= call.dv) {
        *reinterpret_cast<uint4*>(x) = *reinterpret_cast<const uint4*>(go + c);
        *reinterpret_cast<uint4*>(y) = *reinterpret_cast<const uint4*>(o + c);
      } else {
        for (int i = 0; i < kElements; ++i) {
          x[i] = c + i < call.dv ? go[c + i] : T(0.0f);
          y[i] = c + i < call.dv ? o[c + i] : T(0.0f);
        }
      }
      for (int i = 0; i < kElements; ++i) {
        sum += convert<float>(x[i]) * convert<float>(y[i]);
      }
    }
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, step);
  }
  if (lane == 0 && place < all && place_in_head >= extra.rows) {
    extra.statistics[place] = make_float2(INFINITY, 0);
  } else if (lane == 0 && place < all) {
    const Index row = call.row(at.b, t, h);
    const float lse = call.lse_in[row], through = call.glse ? call.glse[row] : 0.f;
    extra.statistics[place] =
        make_float2(lse == -INFINITY ? INFINITY : lse * cuda::kLog2e, sum - through);
    if (call.delta) {
      call.delta[row] = sum;
    }
  }
}

template <class T>
void prepare_backward(const Call<T>& call, const Extra& extra) {
  const Index all = call.batch * (call.q_heads / call.group) * extra.stride;
  cuda::launch(&statistics_kernel<T>, dim3(static_cast<unsigned>(cuda::blocks_for(all, 8))),
               dim3(128), 0, call, extra);
}

template <class T, int kD, bool kOptions>
void launch_queries(const Call<T>& call, const Extra& extra) {
  using Tile = QueryTile<T, kD, kOptions>;
  const dim3 grid(static_cast<unsigned>(cuda::blocks_for(extra.rows, Tile::kRows)),
                  static_cast<unsigned>(call.q_heads / call.group),
                  static_cast<unsigned>(call.batch));
  cuda::launch(&query_kernel<T, kD, kOptions>, grid, dim3(Tile::kThreads),
               sizeof(typename Tile::Shared), call, extra);
}
template <class T, int kD, bool kOptions>
void launch_keys(const Call<T>& call, const Extra& extra) {
  using Tile = KeyTile<T, kD, kOptions>;
  const dim3 grid(static_cast<unsigned>(cuda::blocks_for(call.cache_rows + call.own, Tile::kRows)),
                  static_cast<unsigned>(call.q_heads / call.group),
                  static_cast<unsigned>(call.batch));
  cuda::launch(&key_kernel<T, kD, kOptions>, grid, dim3(Tile::kThreads),
               sizeof(typename Tile::Shared), call, extra);
}
template <class T>
void query_gradients(const Call<T>& call, const Extra& extra) {
  with_width(call, [&]<int kD>() {
    if constexpr (sizeof(T) == 2) {
      if (plain(call)) {
        launch_queries<T, kD, false>(call, extra);
        return;
      }
    }
    launch_queries<T, kD, true>(call, extra);
  });
}
template <class T>
void key_gradients(const Call<T>& call, const Extra& extra) {
  with_width(call, [&]<int kD>() {
    if constexpr (sizeof(T) == 2) {
      if (plain(call)) {
        launch_keys<T, kD, false>(call, extra);
        return;
      }
    }
    launch_keys<T, kD, true>(call, extra);
  });
}

}  // namespace ls::ops::attention::flash
