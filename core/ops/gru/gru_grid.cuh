#pragma once
// GRU with dense weights over the whole device (core/ops/common/cell_grid.cuh). A block has some
// units of a head: forward their three rows of R, by which it multiplies h_{t-1} of all units (and,
// with the reset before the product, the candidate's r h_{t-1}, for which blocks meet once more);
// backward the columns of R, by which it multiplies the gradients of all rows' products.
#include "core/backend/cuda/device/machine.cuh"
#include "core/ops/common/cell_grid.cuh"
#include "core/ops/gru/gru_blocks.h"

namespace ls::ops::gru::grid {

using common::CellGrid;
using common::kGridRows;
using common::kGridThreads;
using Layout = common::GridLayout<3>;

template <class T>
struct GridCall {
  Call<T> call;
  CellGrid grid;
  float* hidden = nullptr;  ///< [2,B,D]: h of the token before and of this one
  float* reset = nullptr;   ///< [B,D], reset before: r h of this token; backward its gradient
  using Layout = common::GridLayout<3>;
  /// For forward.
  void prepare(cuda::Machine& machine) {
    common::take(machine, 2 * call.shape.batch * call.shape.width(), hidden);
    common::take(machine, call.shape.batch * call.shape.width(), reset);
  }
};

/// A thread's unit and row of the 16 that are worked on, one of each.
struct Own {
  int unit, row;
  template <int kUnits>
  __device__ static Own of() {
    const int e = static_cast<int>(threadIdx.x);
    return {e % kUnits, e / kUnits};
  }
};

template <class T, int kUnits>
struct ForwardStep {
  const GridCall<T>& all;
  const Layout& m;
  int head, first, width, own, warp, lane;

  __device__ float result(int gate, const Own& at) const {
    return m.results[(gate * kUnits + at.unit) * kGridRows + at.row];
  }
  __device__ float input(int b, int t, int place) const {
    const Call<T>& call = all.call;
    return convert<float>(call.gx.at(b, t, 0)[place]) + (call.bias ? call.bias[place] : 0.f);
  }
  /// results of the gates [begin, end) from the rows b0 and on of `from`.
  __device__ void products(const float* from, int b0, int begin, int end) const {
    const CellGrid& g = all.grid;
    __syncthreads();
    common::load_rows(m.x, from, g, b0);
    __syncthreads();
    const int half = warp % 2, gate = begin + warp / 2;
    if (gate < end) {
      common::multiply<kUnits>(m.weights, m.results, g, gate, half, lane, [&](int b, int k) {
        return *reinterpret_cast<const float4*>(m.x + (8 * half + b) * g.depth + k);
      });
    }
    __syncthreads();
  }
  /// Reset and keep of unit x.
  __device__ void gate(int b, int t, int x, Gate which, float product) const {
    const int place = which * width + own + x;
    const int64_t token = static_cast<int64_t>(b) * all.grid.tokens + t;
    all.call.gates[token * 3 * width + place] = common::cell_sigmoid(input(b, t, place) + product);
  }
  __device__ float stored(int b, int t, int x, Gate which) const {
    const int64_t token = static_cast<int64_t>(b) * all.grid.tokens + t;
    return all.call.gates[token * 3 * width + which * width + own + x];
  }
  /// From the candidate's product: what the reset multiplies, or with its bias.
  __device__ void update(int b, int t, int x, float& h, float product, float* next) const {
    const Call<T>& call = all.call;
    const int64_t token = static_cast<int64_t>(b) * all.grid.tokens + t;
    const float r = stored(b, t, x, kReset), z = stored(b, t, x, kKeep);
    const float inner = call.before ? r * h : product + (call.bias_n ? call.bias_n[own + x] : 0.f);
    const int place = kNew * width + own + x;
    const float n = tanhf(input(b, t, place) + (call.before ? product : r * inner));
    call.inner[token * width + own + x] = inner;
    call.gates[token * 3 * width + place] = n;
    h = z * h + (1 - z) * n;
    call.hidden[token * width + own + x] = h;
    call.y.at(b, t, 0)[own + x] = convert<T>(h);
    next[b * width + own + x] = h;
    if (t == all.grid.tokens - 1) {
      call.hT[b * width + own + x] = h;
    }
  }
};

template <class T, int kUnits>
__global__ void __launch_bounds__(kGridThreads)
    forward_kernel(const __grid_constant__ GridCall<T> all) {
  extern __shared__ __align__(16) float memory[];
  const Call<T>& call = all.call;
  const CellGrid& g = all.grid;
  const Layout m(memory, g, true);
  const ForwardStep<T, kUnits> step{all,
                                    m,
                                    g.head(),
                                    g.first_unit(),
                                    g.heads * g.d,
                                    g.head() * g.d,
                                    static_cast<int>(threadIdx.x) / 32,
                                    static_cast<int>(threadIdx.x) % 32};
  const int first = step.first, width = step.width, own = step.own;
  common::fill_weights<3>(m.weights, g, [&](int gate, int unit, int k) {
    return call.shape.r[(static_cast<int64_t>(step.head) * 3 * g.d + gate * g.d + unit) * g.d + k];
  });
  for (int e = static_cast<int>(threadIdx.x); e < kUnits * g.batch; e += kGridThreads) {
    const int unit = first + e % kUnits, b = e / kUnits;
    m.c[e] = call.h0 && unit < g.d ? call.h0[b * width + own + unit] : 0.f;
  }
  const Own at = Own::of<kUnits>();
  const int x = first + at.unit;
  unsigned met = 0;
  for (int t = 0; t < g.tokens; ++t) {
    const float* const before =
        t > 0 ? all.hidden + static_cast<int64_t>(t % 2) * g.batch * width : call.h0;
    float* const next = all.hidden + static_cast<int64_t>((t + 1) % 2) * g.batch * width;
    for (int b0 = 0; b0 < g.batch; b0 += kGridRows) {
      step.products(before, b0, 0, call.before ? 2 : 3);
      const int b = b0 + at.row;
      if (at.row < kGridRows && b < g.batch && x < g.d) {
        float& h = m.c[b * kUnits + at.unit];
        step.gate(b, t, x, kReset, step.result(kReset, at));
        step.gate(b, t, x, kKeep, step.result(kKeep, at));
        if (call.before) {
          all.reset[b * width + own + x] = step.stored(b, t, x, kReset) * h;
        } else {
          step.update(b, t, x, h, step.result(kNew, at), next);
        }
      }
    }
    if (call.before) {
      common::meet(g, ++met);
      for (int b0 = 0; b0 < g.batch; b0 += kGridRows) {
        step.products(all.reset, b0, kNew, kNew + 1);
        const int b = b0 + at.row;
        if (at.row < kGridRows && b < g.batch && x < g.d) {
          step.update(b, t, x, m.c[b * kUnits + at.unit], step.result(kNew, at), next);
        }
      }
    }
    if (t + 1 < g.tokens) {
      common::meet(g, ++met);
    }
  }
}

/// What the way back of one token needs of one unit (NOTES.md).
template <class T>
struct UnitBack {
  const Call<T>& call;
  int64_t token;
  int b, t, x, width;
  float r, z, n, h;
  __device__ UnitBack(const Call<T>& c, const CellGrid& g, int row, int at, int unit)
      : call(c),
        token(static_cast<int64_t>(row) * g.tokens + at),
        b(row),
        t(at),
        x(unit),
        width(g.heads * g.d),
        r(gate(kReset)),
        z(gate(kKeep)),
        n(gate(kNew)),
        h(at > 0 ? c.hidden[(token - 1) * width + unit] : (c.h0 ? c.h0[row * width + unit] : 0.f)) {
  }
  __device__ float gate(Gate which) const {
    return call.gates[token * 3 * width + which * width + x];
  }
  __device__ void store(Gate which, float d) const {
    const int place = which * width + x;
    call.dpre[token * 3 * width + place] = d;
    if (call.dgx) {
      call.dgx.at(b, t, 0)[place] = convert<T>(d);
    }
  }
  /// Through the new hidden vector; dh becomes what of it goes past the products.
  __device__ void output(float& dh) const {
    const float d = dh + (call.gy ? convert<float>(call.gy.at(b, t, 0)[x]) : 0.f);
    const float dn = d * (1 - z) * (1 - n * n);
    dh = d * z;
    call.last[token * width + x] = h;
    store(kKeep, d * (h - n) * z * (1 - z));
    store(kNew, dn);
    if (!call.before) {
      call.dproduct[token * width + x] = dn * r;
      store(kReset, dn * call.inner[token * width + x] * r * (1 - r));
    }
  }
  /// Reset before the product: dreset is the gradient of r h.
  __device__ void reset(float dreset, float& dh) const {
    store(kReset, dreset * h * r * (1 - r));
    dh += dreset * r;
  }
};

template <class T, int kUnits>
struct ReverseStep {
  const GridCall<T>& all;
  const Layout& m;
  int first, width, own, warp, lane;

  /// results of the gates [begin, end) of 16 rows from b0: gradients of their products times the
  /// columns of R.
  __device__ void products(int b0, int t, int begin, int end) const {
    const Call<T>& call = all.call;
    const CellGrid& g = all.grid;
    const int half = warp % 2, gate = begin + warp / 2;
    const bool apart = gate == kNew && !call.before;
    const float* const from = apart ? call.dproduct : call.dpre + gate * width;
    const int stride = apart ? width : 3 * width;
    __syncthreads();
    if (gate < end) {
      common::multiply<kUnits>(m.weights, m.results, g, gate, half, lane, [&](int row, int k) {
        const int b = b0 + 8 * half + row;
        const int64_t token = static_cast<int64_t>(b) * g.tokens + t;
        return b < g.batch && k < g.d
                   ? __ldcg(reinterpret_cast<const float4*>(from + token * stride + own + k))
                   : make_float4(0, 0, 0, 0);
      });
    }
    __syncthreads();
  }
  __device__ float sum(const Own& at, int begin, int end) const {
    float all_gates = 0;
    for (int n = begin; n < end; ++n) {
      all_gates += m.results[(n * kUnits + at.unit) * kGridRows + at.row];
    }
    return all_gates;
  }
};

template <class T, int kUnits>
__global__ void __launch_bounds__(kGridThreads)
    reverse_kernel(const __grid_constant__ GridCall<T> all) {
  extern __shared__ __align__(16) float memory[];
  const Call<T>& call = all.call;
  const CellGrid& g = all.grid;
  const Layout m(memory, g, false);
  const int head = g.head(), first = g.first_unit(), width = g.heads * g.d, own = head * g.d;
  const ReverseStep<T, kUnits> step{all,
                                    m,
                                    first,
                                    width,
                                    own,
                                    static_cast<int>(threadIdx.x) / 32,
                                    static_cast<int>(threadIdx.x) % 32};
  common::fill_weights<3>(m.weights, g, [&](int gate, int unit, int k) {
    return call.shape.r[(static_cast<int64_t>(head) * 3 * g.d + gate * g.d + k) * g.d + unit];
  });
  for (int e = static_cast<int>(threadIdx.x); e < kUnits * g.batch; e += kGridThreads) {
    const int unit = first + e % kUnits;
    m.dh[e] = call.ghT && unit < g.d ? call.ghT[e / kUnits * width + own + unit] : 0.f;
  }
  const Own at = Own::of<kUnits>();
  unsigned met = 0;
  for (int t = g.tokens - 1; t >= 0; --t) {
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < kUnits * g.batch; e += kGridThreads) {
      if (first + e % kUnits < g.d) {
        UnitBack<T>(call, g, e / kUnits, t, own + first + e % kUnits).output(m.dh[e]);
      }
    }
    common::meet(g, ++met);
    if (call.before) {
      for (int b0 = 0; b0 < g.batch; b0 += kGridRows) {
        step.products(b0, t, kNew, kNew + 1);
        const int b = b0 + at.row;
        if (at.row < kGridRows && b < g.batch && first + at.unit < g.d) {
          UnitBack<T>(call, g, b, t, own + first + at.unit)
              .reset(step.sum(at, kNew, kNew + 1), m.dh[b * kUnits + at.unit]);
        }
      }
      common::meet(g, ++met);
    }
    for (int b0 = 0; b0 < g.batch; b0 += kGridRows) {
      const int end = call.before ? 2 : 3, b = b0 + at.row;
      step.products(b0, t, 0, end);
      if (at.row < kGridRows && b < g.batch) {
        m.dh[b * kUnits + at.unit] += step.sum(at, 0, end);
      }
    }
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < kUnits * g.batch; e += kGridThreads) {
    if (first + e % kUnits < g.d) {
      call.dh_first[e / kUnits * width + own + first + e % kUnits] = m.dh[e];
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

}  // namespace ls::ops::gru::grid
