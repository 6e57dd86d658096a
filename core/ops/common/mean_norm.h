#pragma once
// Kernels of norms that subtract the mean, by contiguous groups of channels: layer_norm has one
// group, group_norm several. layer_norm/NOTES.md derives the gradient. Forward: a thread owns rows
// and a buffer [d]. Backward: it owns whole pieces of the rows, of which there are kPieces whatever
// the thread count, each with its own sums [2, d] of the gradients of weight and bias, and a buffer
// [3, d].
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/backend/cpu/simd_math.h"
#include "core/base/parallel_for.h"
#include "core/ops/common/elements.h"
#include "core/tensor/rows.h"
#include "core/tensor/tensor.h"

namespace ls::ops {

/// Op is LayerNorm or GroupNorm.
template <class T, class Op>
void mean_norm_forward(const typename Op::template In<TensorView>& in,
                       typename Op::template Out<TensorView>& out, const typename Op::Attrs& a) {
  using A = acc_t<T>;
  const Rows x(in.x), z(in.z.defined() ? in.z : in.x);
  const bool after = in.z.defined() && a.norm_before_gate;
  const bool before = in.z.defined() && !a.norm_before_gate;
  const A* w = common::elements<A>(in.weight);
  const A* b = common::elements<A>(in.bias);
  const Index d = x.cols, groups = a.num_groups, group = d / groups;
  const A eps = static_cast<A>(a.eps), n = static_cast<A>(group);
  T* y = out.y.template data<T>();
  A* mean = out.mean.template data<A>();
  A* rstd = out.rstd.template data<A>();
  parallel_for(x.count, row_grain(d), [&](Index r0, Index r1) {
    std::vector<A> buffer(static_cast<std::size_t>(d));
    A* __restrict v = buffer.data();
    for (Index r = r0; r < r1; ++r) {
      const T* xp = x.row<T>(r);
      const T* zp = z.row<T>(r);
      T* __restrict yp = y + r * d;
      for (Index c = 0; c < d; ++c) {
        v[c] = convert<A>(xp[c]);
      }
      if (before) {
        for (Index c = 0; c < d; ++c) {
          v[c] *= simd::silu(convert<A>(zp[c]));
        }
      }
      for (Index k = 0; k < groups; ++k) {
        A* __restrict u = v + k * group;
        A sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
        for (Index c = 0; c < group; ++c) {
          sum += u[c];
        }
        const A m = sum / n;
#pragma omp simd reduction(+ : square)
        for (Index c = 0; c < group; ++c) {
          square += (u[c] - m) * (u[c] - m);
        }
        const A s = A(1) / std::sqrt(square / n + eps);
        mean[r * groups + k] = m;
        rstd[r * groups + k] = s;
        for (Index c = 0; c < group; ++c) {
          u[c] = (u[c] - m) * s;
        }
      }
      for (Index c = 0; c < d && w; ++c) {
        v[c] *= w[c];
      }
      for (Index c = 0; c < d && b; ++c) {
        v[c] += b[c];
      }
      if (after) {
        for (Index c = 0; c < d; ++c) {
          v[c] *= simd::silu(convert<A>(zp[c]));
        }
      }
      for (Index c = 0; c < d; ++c) {
        yp[c] = convert<T>(v[c]);
      }
    }
  });
}

template <class T, class Op>
void mean_norm_backward(const typename Op::template In<TensorView>& in,
                        const typename Op::template Out<TensorView>& out,
                        const typename Op::template Out<TensorView>& dout,
                        typename Op::template In<TensorView>& din, const typename Op::Attrs& a) {
  using A = acc_t<T>;
  const Rows x(in.x), z(in.z.defined() ? in.z : in.x);
  const Tensor zeros = dout.y.defined() ? Tensor() : Tensor::zeros(in.x.shape(), in.x.dtype());
  const Rows dy(dout.y.defined() ? dout.y : TensorView(zeros));
  const bool after = in.z.defined() && a.norm_before_gate;
  const bool before = in.z.defined() && !a.norm_before_gate;
  const A* w = common::elements<A>(in.weight);
  const A* b = common::elements<A>(in.bias);
  const A* dmean = common::elements<A>(dout.mean);
  const A* drstd = common::elements<A>(dout.rstd);
  const A* mean = common::elements<A>(out.mean);
  const A* rstd = common::elements<A>(out.rstd);
  const Index d = x.cols, groups = a.num_groups, group = d / groups;
  const A n = static_cast<A>(group);
  T* dx = common::elements<T>(din.x);
  T* dz = common::elements<T>(din.z);
  A* dw = common::elements<A>(din.weight);
  A* db = common::elements<A>(din.bias);

  // Fixed pieces of rows, so that the sums over rows do not depend on the thread count.
  constexpr Index kPieces = 16;
  std::vector<A> sums(static_cast<std::size_t>(kPieces * 2 * d));
  const Index grain = row_grain(x.count * d, 8192 * kPieces);
  parallel_for(kPieces, grain, [&](Index p0, Index p1) {
    std::vector<A> buffer(static_cast<std::size_t>(3 * d));
    A* __restrict v = buffer.data();  // normalised input
    A* __restrict g = v + d;          // gradient, from the output back to the input of the norm
    A* __restrict s = g + d;          // gate
    for (Index piece = p0; piece < p1; ++piece) {
      A* __restrict sum_w = sums.data() + piece * 2 * d;
      A* __restrict sum_b = sum_w + d;
      for (Index r = x.count * piece / kPieces; r < x.count * (piece + 1) / kPieces; ++r) {
        const T* xp = x.row<T>(r);
        const T* zp = z.row<T>(r);
        const T* gp = dy.row<T>(r);
        for (Index c = 0; c < d; ++c) {
          v[c] = convert<A>(xp[c]);
          g[c] = convert<A>(gp[c]);
        }
        if (before || after) {
          for (Index c = 0; c < d; ++c) {
            s[c] = simd::silu(convert<A>(zp[c]));
          }
        }
        if (before) {
          for (Index c = 0; c < d; ++c) {
            v[c] *= s[c];
          }
        }
        for (Index k = 0; k < groups; ++k) {
          const A m = mean[r * groups + k], scale = rstd[r * groups + k];
          for (Index c = k * group; c < (k + 1) * group; ++c) {
            v[c] = (v[c] - m) * scale;
          }
        }
        if (after) {
          if (dz) {
            for (Index c = 0; c < d; ++c) {
              const A inside = v[c] * (w ? w[c] : A(1)) + (b ? b[c] : A(0));
              dz[r * d + c] = convert<T>(g[c] * inside * simd::silu_grad(convert<A>(zp[c])));
            }
          }
          for (Index c = 0; c < d; ++c) {
            g[c] *= s[c];
          }
        }
        for (Index c = 0; c < d; ++c) {
          sum_w[c] += g[c] * v[c];
          sum_b[c] += g[c];
        }
        if (!dx && !(dz && before)) {
          continue;
        }
        for (Index c = 0; c < d && w; ++c) {
          g[c] *= w[c];
        }
        for (Index k = 0; k < groups; ++k) {
          const A scale = rstd[r * groups + k];
          A plain = 0, dot = 0;
#pragma omp simd reduction(+ : plain, dot)
          for (Index c = k * group; c < (k + 1) * group; ++c) {
            plain += g[c];
            dot += g[c] * v[c];
          }
          A shift = plain / n * -scale, slope = dot / n * -scale;
          shift += dmean ? dmean[r * groups + k] / n : A(0);
          slope -= drstd ? drstd[r * groups + k] / n * scale * scale : A(0);
          for (Index c = k * group; c < (k + 1) * group; ++c) {
            g[c] = scale * g[c] + shift + slope * v[c];
          }
        }
        if (before && dz) {
          for (Index c = 0; c < d; ++c) {
            const A slope = simd::silu_grad(convert<A>(zp[c]));
            dz[r * d + c] = convert<T>(g[c] * convert<A>(xp[c]) * slope);
          }
        }
        if (dx) {
          for (Index c = 0; c < d; ++c) {
            dx[r * d + c] = convert<T>(before ? g[c] * s[c] : g[c]);
          }
        }
      }
    }
  });
  const auto total = [&](A* to, Index at) {
    for (Index c = 0; c < d && to; ++c) {
      to[c] = 0;
      for (Index p = 0; p < kPieces; ++p) {
        to[c] += sums[p * 2 * d + at + c];
      }
    }
  };
  total(dw, 0);
  total(db, d);
}

}  // namespace ls::ops
