#pragma once
// The gated scan in tiles of tokens. A block walks 64 channels of a row, two a lane: 8 warps have
// 8 tokens each of a tile, whose maps h -> a h + x they compose; every warp starts from those
// before it and the carried h. The next tile's numbers arrive meanwhile. Where channels are few,
// rows are cut into segments: a pass before finds the map of each. Forward moves u, g in and y out
// once, backward g, y, dy in and du, dg out.
#include <cuda_bf16.h>

#include <algorithm>
#include <type_traits>

#include "core/backend/cuda/device/machine.cuh"
#include "core/backend/cuda/launch.h"
#include "core/backend/cuda/switches.h"
#include "core/op/report.h"
#include "core/ops/common/document_marks.cuh"
#include "core/ops/common/hopper_operands.cuh"
#include "core/ops/gated_scan/gated_scan.h"

namespace ls::ops::gated_scan::tiles {

inline constexpr int kWarps = 8, kThreads = 32 * kWarps;
inline constexpr int kOwn = 8;               ///< tokens of a warp
inline constexpr int kTile = kOwn * kWarps;  ///< tokens
inline constexpr int kChannels = 64;

template <class T>
struct Call {
  int rows = 0, tokens = 0, width = 0;
  int segments = 1, length = 0;           ///< of a row; tokens of one, whole tiles
  const unsigned char* begins = nullptr;  ///< [B,T]: a document does here; or null
  const T *u = nullptr, *y = nullptr, *gy = nullptr;
  const float *g = nullptr, *h0 = nullptr, *ghT = nullptr;
  T *out = nullptr, *du = nullptr;
  float *dg = nullptr, *hT = nullptr, *dh0 = nullptr;
  float4* maps = nullptr;  ///< [row,segment,width / 2]: a, a, x, x
  __host__ __device__ int groups() const { return (width + kChannels - 1) / kChannels; }
};

template <class T>
struct Two;
template <>
struct Two<float> {
  __device__ static float2 load(const float* at) { return *reinterpret_cast<const float2*>(at); }
  __device__ static void store(float* to, float2 x) { *reinterpret_cast<float2*>(to) = x; }
};
template <>
struct Two<__nv_bfloat16> {
  __device__ static float2 load(const __nv_bfloat16* at) {
    const auto x = *reinterpret_cast<const unsigned*>(at);
    return make_float2(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u));
  }
  __device__ static void store(__nv_bfloat16* to, float2 x) {
    *reinterpret_cast<__nv_bfloat162*>(to) = __float22bfloat162_rn(x);
  }
};

template <class T>
using Element = std::conditional_t<std::is_same_v<T, float>, float, __nv_bfloat16>;

/// h -> a h + x, of two channels.
struct Map {
  float2 a = make_float2(1, 1), x = make_float2(0, 0);
  // What is forgotten counts for nothing, also where it is not finite.
  __device__ static float left(float factor, float of) { return factor == 0 ? 0.f : factor * of; }
  __device__ float2 of(float2 h) const {
    return make_float2(a.x == 0 ? x.x : fmaf(a.x, h.x, x.x), a.y == 0 ? x.y : fmaf(a.y, h.y, x.y));
  }
  /// This one, then the next.
  __device__ Map then(const Map& next) const {
    return {make_float2(left(next.a.x, a.x), left(next.a.y, a.y)), next.of(x)};
  }
  __device__ float4 packed() const { return make_float4(a.x, a.y, x.x, x.y); }
  __device__ static Map unpack(float4 m) { return {make_float2(m.x, m.y), make_float2(m.z, m.w)}; }
};

template <class T, bool kReverse, bool kMaps>
struct Walk {
  const Call<T>& call;
  int row, channel, segment, warp, lane, first, last;  ///< steps [first, last)
  bool there;
  __device__ explicit Walk(const Call<T>& c)
      : call(c),
        row(static_cast<int>(blockIdx.x) / c.groups() / c.segments),
        channel(static_cast<int>(blockIdx.x) % c.groups() * kChannels +
                2 * (static_cast<int>(threadIdx.x) % 32)),
        segment(static_cast<int>(blockIdx.x) / c.groups() % c.segments),
        warp(static_cast<int>(threadIdx.x) / 32),
        lane(static_cast<int>(threadIdx.x) % 32),
        first(segment * c.length),
        last(min(c.tokens, first + c.length)),
        there(channel < c.width) {}
  __device__ int token(int step) const { return kReverse ? call.tokens - 1 - step : step; }
  __device__ int64_t at(int t) const {
    return (static_cast<int64_t>(row) * call.tokens + t) * call.width + channel;
  }
  /// Whether token t starts from nothing.
  __device__ bool fresh(int t) const {
    return call.begins && t > 0 && call.begins[static_cast<int64_t>(row) * call.tokens + t];
  }
  /// Steps past the end are the identity.
  __device__ void load(int step0, float2 (&a)[kOwn], float2 (&x)[kOwn]) const {
    const T* const from = kReverse ? call.gy : call.u;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int step = step0 + i;
      const bool here = there && step < last;
      const int64_t place = here ? at(token(step)) : 0;
      a[i] = here ? *reinterpret_cast<const float2*>(call.g + place) : make_float2(0, 0);
      x[i] = here && from ? Two<T>::load(from + place) : make_float2(0, 0);
    }
  }
  __device__ Map of_warp(int step0, float2 (&a)[kOwn], float2 (&x)[kOwn]) const {
    Map all;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      a[i] = make_float2(expf(a[i].x), expf(a[i].y));
      all = all.then(step_map(step0 + i, a[i], x[i]));
    }
    return all;
  }
  /// The map of one step. Forward a fresh token forgets what was, backward it hands nothing on.
  __device__ Map step_map(int step, float2 a, float2 x) const {
    const bool cut = step < last && fresh(token(step));
    Map m{a, x};
    if (kReverse) {
      m.x = make_float2(a.x * x.x, a.y * x.y);
      m.x = cut ? make_float2(0, 0) : m.x;
    }
    m.a = cut ? make_float2(0, 0) : m.a;
    return m;
  }
  __device__ float2 incoming() const {
    const float* const from = kReverse ? call.ghT : call.h0;
    float2 h = make_float2(0, 0);
    if (from && there) {
      h = *reinterpret_cast<const float2*>(from + static_cast<int64_t>(row) * call.width + channel);
    }
    for (int s = 0; s < segment && there; ++s) {
      h = Map::unpack(call.maps[map_at(s)]).of(h);
    }
    return h;
  }
  __device__ int64_t map_at(int s) const {
    return (static_cast<int64_t>(row) * call.segments + s) * (call.width / 2) + channel / 2;
  }
  /// Outputs of this warp's tokens; h is what they start from.
  __device__ void write(int step0, float2 h, const float2 (&a)[kOwn], const float2 (&x)[kOwn]) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int step = step0 + i;
      if (!there || step >= last) {
        continue;
      }
      const int t = token(step);
      if constexpr (!kReverse) {
        h = step_map(step, a[i], x[i]).of(h);
        Two<T>::store(call.out + at(t), h);
      } else {
        const float2 here = make_float2(h.x + x[i].x, h.y + x[i].y);
        if (call.du) {
          Two<T>::store(call.du + at(t), here);
        }
        h = make_float2(a[i].x * here.x, a[i].y * here.y);
        if (call.dg) {
          const float2 y = before(t);
          *reinterpret_cast<float2*>(call.dg + at(t)) = make_float2(h.x * y.x, h.y * y.y);
        }
        h = fresh(t) ? make_float2(0, 0) : h;
      }
    }
  }
  __device__ float2 before(int t) const {
    if (fresh(t)) {
      return make_float2(0, 0);
    }
    if (t > 0) {
      return Two<T>::load(call.y + at(t - 1));
    }
    return call.h0 ? *reinterpret_cast<const float2*>(
                         call.h0 + static_cast<int64_t>(row) * call.width + channel)
                   : make_float2(0, 0);
  }
  __device__ void run() {
    __shared__ float4 maps[2][kWarps][32];
    float2 h = kMaps ? make_float2(0, 0) : incoming();
    Map whole;
    float2 a[kOwn], x[kOwn], next_a[kOwn], next_x[kOwn];
    load(first + kOwn * warp, next_a, next_x);
    for (int tile = first, n = 0; tile < last; tile += kTile, ++n) {
      const int own = tile + kOwn * warp;
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        a[i] = next_a[i];
        x[i] = next_x[i];
      }
      load(own + kTile, next_a, next_x);
      maps[n % 2][warp][lane] = of_warp(own, a, x).packed();
      __syncthreads();
      float2 mine = h;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        mine = w == warp ? h : mine;
        const Map m = Map::unpack(maps[n % 2][w][lane]);
        if (kMaps) {
          whole = whole.then(m);
        }
        h = m.of(h);
      }
      if (!kMaps) {
        write(own, mine, a, x);
      }
    }
    if (warp != 0 || !there) {
      return;
    }
    if (kMaps) {
      call.maps[map_at(segment)] = whole.packed();
    } else if (float* const to = kReverse ? call.dh0 : call.hT; to && last == call.tokens) {
      *reinterpret_cast<float2*>(to + static_cast<int64_t>(row) * call.width + channel) = h;
    }
  }
};

template <class T, bool kReverse, bool kMaps>
__global__ void __launch_bounds__(kThreads, 2) tiles_kernel(const __grid_constant__ Call<T> call) {
  Walk<T, kReverse, kMaps>(call).run();
}

/// As a kernel of gated_scan: f32 or bf16, an even number of channels, states of the rows.
template <class T>
class Tiles {
 public:
  using Op = GatedScan;
  using E = Element<T>;

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    report_form<Op>("tiles of {}", kTile);
    Pass<false> pass(in, in.u);
    pass.call.u = elements(in.u);
    pass.call.out = elements(out.y);
    common::OutgoingStates last(in.h0, out.hT, pass.call.segments > 1);
    pass.call.hT = last.data();
    pass.run();
    last.put();
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    Pass<true> pass(in, in.g);
    pass.call.y = elements(out.y);
    pass.call.gy = elements(dout.y);
    pass.call.ghT = common::elements<float>(dout.hT);
    pass.call.du = elements(din.u);
    pass.call.dg = common::elements<float>(din.g);
    pass.call.dh0 = common::elements<float>(din.h0);
    pass.run();
  }

 private:
  static const E* elements(const TensorView& x) {
    return x.defined() ? static_cast<const E*>(x.raw()) : nullptr;
  }
  static E* elements(TensorView& x) { return x.defined() ? static_cast<E*>(x.raw()) : nullptr; }

  template <bool kReverse>
  struct Pass {
    cuda::Machine memory;
    common::StretchTable table;
    Call<E> call;
    Pass(const Op::In<TensorView>& in, const TensorView& like)
        : table("gated_scan", like.size(0), like.size(1), in.offsets, 0) {
      call.rows = static_cast<int>(like.size(0));
      call.tokens = static_cast<int>(like.size(1));
      call.width = static_cast<int>(like.size(2));
      call.begins = common::mark_documents(memory, table);
      call.g = common::elements<float>(in.g);
      call.h0 = common::elements<float>(in.h0);
      cut(cuda::queue().processors);
    }
    /// Two blocks a processor, where rows and channels are fewer than three for four processors.
    void cut(int processors) {
      const int blocks = call.rows * call.groups(), tiles = (call.tokens + kTile - 1) / kTile;
      const int wanted = 4 * blocks >= 3 * processors ? 1 : 2 * processors / blocks;
      const int segments = std::clamp(tiles / 4, 1, std::max(wanted, 1));
      const int each = (tiles + segments - 1) / segments;
      call.length = each * kTile;
      call.segments = (tiles + each - 1) / each;
    }
    void run() {
      const dim3 blocks(static_cast<unsigned>(call.rows * call.segments * call.groups()));
      if (call.segments > 1) {
        common::take(memory, Index{call.rows} * call.segments * (call.width / 2), call.maps);
        cuda::launch(&tiles_kernel<E, kReverse, true>, blocks, dim3(kThreads), 0, call);
      }
      cuda::launch(&tiles_kernel<E, kReverse, false>, blocks, dim3(kThreads), 0, call);
    }
  };
};

inline bool fits(const GatedScan::In<ShapeOf>& in, const GatedScan::Attrs&, int) {
  const Index rows = in.g.size(0), tokens = in.g.size(1), width = in.g.size(2);
  return !cuda::portable_only() && rows > 0 && tokens > 0 && width > 0 && width % 2 == 0 &&
         tokens < (1 << 30) && rows * width < (1 << 28) &&
         (!in.h0.defined() || in.h0.size(0) == rows);
}

}  // namespace ls::ops::gated_scan::tiles
