#pragma once
// LSTM with dense weights over the whole device (core/ops/common/cell_grid.cuh). A block has some
// units of a head: forward their four rows of R, by which it multiplies h_{t-1} of all units;
// backward the columns of R, by which it multiplies the gradients of all gates.
#include "core/backend/cuda/device/machine.cuh"
#include "core/ops/common/cell_grid.cuh"
#include "core/ops/lstm/lstm_blocks.h"

namespace ls::ops::lstm::grid {

using common::CellGrid;
using common::kGridRows;
using common::kGridThreads;

template <class T>
struct GridCall {
  Call<T> call;
  CellGrid grid;
  float* hidden = nullptr;  ///< [2,B,D]: h of the token before and of this one
  using Layout = common::GridLayout<4>;
  /// For forward.
  void prepare(cuda::Machine& machine) {
    common::take(machine, 2 * call.shape.batch * call.shape.width(), hidden);
  }
};
using Layout = common::GridLayout<4>;

template <class T, int kUnits>
__global__ void __launch_bounds__(kGridThreads)
    forward_kernel(const __grid_constant__ GridCall<T> all) {
  extern __shared__ __align__(16) float memory[];
  const Call<T>& call = all.call;
  const CellGrid& g = all.grid;
  const Layout m(memory, g, true);
  const int head = g.head(), first = g.first_unit(), width = g.heads * g.d, own = head * g.d;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  common::fill_weights<4>(m.weights, g, [&](int gate, int unit, int k) {
    return call.shape.r[(static_cast<int64_t>(head) * 4 * g.d + gate * g.d + unit) * g.d + k];
  });
  for (int e = static_cast<int>(threadIdx.x); e < kUnits * g.batch; e += kGridThreads) {
    const int unit = first + e % kUnits, b = e / kUnits;
    m.c[e] = call.c0 && unit < g.d ? call.c0[b * width + own + unit] : 0.f;
  }
  for (int t = 0; t < g.tokens; ++t) {
    const float* const before =
        t > 0 ? all.hidden + static_cast<int64_t>(t % 2) * g.batch * width : call.h0;
    float* const next = all.hidden + static_cast<int64_t>((t + 1) % 2) * g.batch * width;
    for (int b0 = 0; b0 < g.batch; b0 += kGridRows) {
      __syncthreads();
      common::load_rows(m.x, before, g, b0);
      __syncthreads();
      const int half = warp % 2;
      common::multiply<kUnits>(m.weights, m.results, g, warp / 2, half, lane, [&](int b, int k) {
        return *reinterpret_cast<const float4*>(m.x + (8 * half + b) * g.depth + k);
      });
      __syncthreads();
      const int unit = static_cast<int>(threadIdx.x) % kUnits;
      const int row = static_cast<int>(threadIdx.x) / kUnits, b = b0 + row, x = first + unit;
      if (row < kGridRows && b < g.batch && x < g.d) {
        const int64_t token = static_cast<int64_t>(b) * g.tokens + t;
        float gates[4];
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const int place = n * width + own + x;
          const float in =
              convert<float>(call.gx.at(b, t, 0)[place]) + (call.bias ? call.bias[place] : 0.f);
          const float sum = in + m.results[(n * kUnits + unit) * kGridRows + row];
          gates[n] = n == kCell ? tanhf(sum) : common::cell_sigmoid(sum);
          call.gates[token * 4 * width + place] = gates[n];
        }
        float& c = m.c[b * kUnits + unit];
        c = gates[kForget] * c + gates[kInput] * gates[kCell];
        const float h = gates[kOutput] * tanhf(c);
        call.cells[token * width + own + x] = c;
        call.y.at(b, t, 0)[own + x] = convert<T>(h);
        next[b * width + own + x] = h;
        if (t == g.tokens - 1) {
          call.hT[b * width + own + x] = h;
          call.cT[b * width + own + x] = c;
        }
      }
    }
    if (t + 1 < g.tokens) {
      common::meet(g, static_cast<unsigned>(t + 1));
    }
  }
}

/// Gradients of one unit's gates at token t of row b; dc becomes that of the cell before.
template <class T>
__device__ __forceinline__ void unit_gradients(const Call<T>& call, const CellGrid& g, int b, int t,
                                               int x, float dh, float& dc) {
  const int width = g.heads * g.d;
  const int64_t token = static_cast<int64_t>(b) * g.tokens + t;
  const float* const gates = call.gates + token * 4 * width + x;
  const float i = gates[0], f = gates[width], n = gates[2 * width], o = gates[3 * width];
  float c = call.c0 ? call.c0[b * width + x] : 0.f, h = call.h0 ? call.h0[b * width + x] : 0.f;
  if (t > 0) {
    c = call.cells[(token - 1) * width + x];
    h = call.gates[((token - 1) * 4 + kOutput) * width + x] * tanhf(c);
  }
  call.before[token * width + x] = h;
  const float tanh_c = tanhf(call.cells[token * width + x]);
  const float dhidden = dh + (call.gy ? convert<float>(call.gy.at(b, t, 0)[x]) : 0.f);
  const float dcell = dc + dhidden * o * (1 - tanh_c * tanh_c);
  dc = dcell * f;
  const float d[4] = {dcell * n * i * (1 - i), dcell * c * f * (1 - f), dcell * i * (1 - n * n),
                      dhidden * tanh_c * o * (1 - o)};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    call.dpre[token * 4 * width + k * width + x] = d[k];
    if (call.dgx) {
      call.dgx.at(b, t, 0)[k * width + x] = convert<T>(d[k]);
    }
  }
}

template <class T, int kUnits>
__global__ void __launch_bounds__(kGridThreads)
    reverse_kernel(const __grid_constant__ GridCall<T> all) {
  extern __shared__ __align__(16) float memory[];
  const Call<T>& call = all.call;
  const CellGrid& g = all.grid;
  const Layout m(memory, g, false);
  const int head = g.head(), first = g.first_unit(), width = g.heads * g.d, own = head * g.d;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  common::fill_weights<4>(m.weights, g, [&](int gate, int unit, int k) {
    return call.shape.r[(static_cast<int64_t>(head) * 4 * g.d + gate * g.d + k) * g.d + unit];
  });
  for (int e = static_cast<int>(threadIdx.x); e < kUnits * g.batch; e += kGridThreads) {
    const int unit = first + e % kUnits, at = e / kUnits * width + own + unit;
    m.c[e] = call.gcT && unit < g.d ? call.gcT[at] : 0.f;
    m.dh[e] = call.ghT && unit < g.d ? call.ghT[at] : 0.f;
  }
  for (int t = g.tokens - 1; t >= 0; --t) {
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < kUnits * g.batch; e += kGridThreads) {
      if (first + e % kUnits < g.d) {
        unit_gradients(call, g, e / kUnits, t, own + first + e % kUnits, m.dh[e], m.c[e]);
      }
    }
    common::meet(g, static_cast<unsigned>(g.tokens - t));
    for (int b0 = 0; b0 < g.batch; b0 += kGridRows) {
      const int half = warp % 2, gate = warp / 2;
      common::multiply<kUnits>(m.weights, m.results, g, gate, half, lane, [&](int row, int k) {
        const int b = b0 + 8 * half + row;
        const int64_t token = static_cast<int64_t>(b) * g.tokens + t;
        return b < g.batch && k < g.d ? __ldcg(reinterpret_cast<const float4*>(
                                            call.dpre + token * 4 * width + gate * width + own + k))
                                      : make_float4(0, 0, 0, 0);
      });
      __syncthreads();
      const int unit = static_cast<int>(threadIdx.x) % kUnits;
      const int row = static_cast<int>(threadIdx.x) / kUnits;
      if (row < kGridRows && b0 + row < g.batch) {
        float sum = 0;
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          sum += m.results[(n * kUnits + unit) * kGridRows + row];
        }
        m.dh[(b0 + row) * kUnits + unit] = sum;
      }
      __syncthreads();
    }
  }
  for (int e = static_cast<int>(threadIdx.x); e < kUnits * g.batch; e += kGridThreads) {
    if (first + e % kUnits < g.d) {
      const int at = e / kUnits * width + own + first + e % kUnits;
      call.dh_first[at] = m.dh[e];
      call.dc_first[at] = m.c[e];
    }
  }
}

template <class T>
void start_forward(const GridCall<T>& all) {
  common::with_units(all.grid, [&]<int kUnits>() {
    common::launch_together(&forward_kernel<T, kUnits>, all.grid, Layout::bytes(all.grid, true),
                            all);
  });
}
template <class T>
void start_reverse(const GridCall<T>& all) {
  common::with_units(all.grid, [&]<int kUnits>() {
    common::launch_together(&reverse_kernel<T, kUnits>, all.grid, Layout::bytes(all.grid, false),
                            all);
  });
}

}  // namespace ls::ops::lstm::grid
