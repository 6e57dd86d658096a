#include "core/ops/rms_norm/rms_norm.h"

#include <cmath>
#include <vector>

#include "core/backend/cpu/parallel_for.h"
#include "core/backend/cpu/rows.h"
#include "core/ops/activation/functions.h"

namespace ls {
namespace {

Index group_of(const Tensor& x, const RmsNorm::Attrs& a) {
  return a.group_size > 0 ? a.group_size : x.size(-1);
}

void rms_norm_bind(const RmsNorm::In<Tensor>& in, const RmsNorm::Attrs& a, Bindings& b) {
  const Index d = in.x.size(-1), g = group_of(in.x, a);
  LS_CHECK(g > 0 && d % g == 0, kShape,
           "rms_norm: argument x: groups of {} channels do not divide {}", g, d);
  b.set("G", d / g);
}

/// What the normalised channels are multiplied by.
template <class A>
std::vector<A> gains_of(const Tensor& weight, A offset, Index d) {
  std::vector<A> gain(static_cast<std::size_t>(d), A(1));
  for (Index c = 0; c < d && weight.defined(); ++c) {
    gain[static_cast<std::size_t>(c)] = offset + weight.data<A>()[c];
  }
  return gain;
}

template <class T, class Gate>
void forward_rows(const RmsNorm::In<Tensor>& in, RmsNorm::Out<Tensor>& out,
                  const RmsNorm::Attrs& a) {
  using A = acc_t<T>;
  const Rows x(in.x);
  const Tensor z_or_x = in.z.defined() ? in.z : in.x;
  const Rows z(z_or_x);
  const Tensor weight = in.weight.defined() ? in.weight.contiguous() : Tensor();
  const Index d = x.cols, group = group_of(in.x, a), groups = d / group;
  const A offset = static_cast<A>(a.weight_offset), eps = static_cast<A>(a.eps);
  const bool gated = in.z.defined(), after = gated && a.norm_before_gate,
             before = gated && !a.norm_before_gate;
  T* y = out.y.data<T>();
  A* rstd = out.rstd.data<A>();
  const std::vector<A> gains = gains_of<A>(weight, offset, d);
  const A* __restrict gain = gains.data();
  parallel_for(x.count, std::max<Index>(1, 8192 / std::max<Index>(1, d)), [&](Index r0, Index r1) {
    std::vector<A> buffer(static_cast<std::size_t>(d));
    A* __restrict v = buffer.data();
    for (Index r = r0; r < r1; ++r) {
      const T* __restrict xp = x.row<T>(r);
      const T* __restrict zp = z.row<T>(r);
      T* __restrict yp = y + r * d;
      for (Index c = 0; c < d; ++c) {
        v[c] = convert<A>(xp[c]);
      }
      if (before) {
        for (Index c = 0; c < d; ++c) {
          v[c] *= Gate::f(convert<A>(zp[c]));
        }
      }
      for (Index g = 0; g < groups; ++g) {
        A square = 0;
#pragma omp simd reduction(+ : square)
        for (Index c = g * group; c < (g + 1) * group; ++c) {
          square += v[c] * v[c];
        }
        const A k = A(1) / std::sqrt(square / static_cast<A>(group) + eps);
        rstd[r * groups + g] = k;
        for (Index c = g * group; c < (g + 1) * group; ++c) {
          v[c] *= k * gain[c];
        }
      }
      if (after) {
        for (Index c = 0; c < d; ++c) {
          yp[c] = convert<T>(v[c] * Gate::f(convert<A>(zp[c])));
        }
      } else {
        for (Index c = 0; c < d; ++c) {
          yp[c] = convert<T>(v[c]);
        }
      }
    }
  });
}

template <class T, class Gate>
void backward_rows(const RmsNorm::In<Tensor>& in, const RmsNorm::Out<Tensor>& out,
                   const RmsNorm::Out<Tensor>& dout, RmsNorm::In<Tensor>& din,
                   const RmsNorm::Attrs& a) {
  using A = acc_t<T>;
  const Rows x(in.x), dy(dout.y);
  const Tensor z_or_x = in.z.defined() ? in.z : in.x;
  const Rows z(z_or_x);
  const Tensor weight = in.weight.defined() ? in.weight.contiguous() : Tensor();
  const Index d = x.cols, group = group_of(in.x, a), groups = d / group;
  const A offset = static_cast<A>(a.weight_offset);
  const bool gated = in.z.defined(), after = gated && a.norm_before_gate,
             before = gated && !a.norm_before_gate;
  const A* rstd = out.rstd.data<A>();
  T* dx = din.x.defined() ? din.x.data<T>() : nullptr;
  T* dz = din.z.defined() ? din.z.data<T>() : nullptr;
  A* dw = din.weight.defined() ? din.weight.data<A>() : nullptr;
  // Fixed pieces of rows give sums of the gain's gradient that do not depend on the thread count.
  constexpr Index kPieces = 16;
  const std::vector<A> gains = gains_of<A>(weight, offset, d);
  const A* __restrict gain = gains.data();
  std::vector<A> sums(dw ? static_cast<std::size_t>(kPieces * d) : 0);
  parallel_for(kPieces, std::max<Index>(1, 8192 * kPieces / std::max<Index>(1, x.count * d)),
               [&](Index p0, Index p1) {
                 std::vector<A> buffer(static_cast<std::size_t>(4 * d));
                 A* __restrict v = buffer.data();  // normalised input, before the gain
                 A* __restrict g = v + d;          // gradient of the gained norm
                 A* __restrict s = g + d;          // gate
                 A* __restrict slope = s + d;      // derivative of the gate
                 for (Index piece = p0; piece < p1; ++piece) {
                   A* __restrict sum = dw ? sums.data() + piece * d : nullptr;
                   for (Index r = x.count * piece / kPieces; r < x.count * (piece + 1) / kPieces;
                        ++r) {
                     const T* __restrict xp = x.row<T>(r);
                     const T* __restrict zp = z.row<T>(r);
                     const T* __restrict gp = dy.row<T>(r);
                     T* __restrict dxp = dx ? dx + r * d : nullptr;
                     T* __restrict dzp = dz ? dz + r * d : nullptr;
                     if (gated) {
                       for (Index c = 0; c < d; ++c) {
                         act::value_and_slope<Gate>(convert<A>(zp[c]), s[c], slope[c]);
                       }
                     }
                     for (Index c = 0; c < d; ++c) {
                       v[c] = convert<A>(xp[c]);
                       g[c] = convert<A>(gp[c]);
                     }
                     if (before) {
                       for (Index c = 0; c < d; ++c) {
                         v[c] *= s[c];
                       }
                     }
                     for (Index k = 0; k < groups; ++k) {
                       const A scale = rstd[r * groups + k];
                       for (Index c = k * group; c < (k + 1) * group; ++c) {
                         v[c] *= scale;
                       }
                     }
                     if (after) {
                       if (dzp) {
                         for (Index c = 0; c < d; ++c) {
                           dzp[c] = convert<T>(g[c] * v[c] * gain[c] * slope[c]);
                         }
                       }
                       for (Index c = 0; c < d; ++c) {
                         g[c] *= s[c];
                       }
                     }
                     if (sum) {
                       for (Index c = 0; c < d; ++c) {
                         sum[c] += g[c] * v[c];
                       }
                     }
                     if (!dxp && !(dzp && before)) {
                       continue;
                     }
                     for (Index c = 0; c < d; ++c) {
                       g[c] *= gain[c];
                     }
                     for (Index k = 0; k < groups; ++k) {
                       A dot = 0;
#pragma omp simd reduction(+ : dot)
                       for (Index c = k * group; c < (k + 1) * group; ++c) {
                         dot += g[c] * v[c];
                       }
                       dot /= static_cast<A>(group);
                       const A scale = rstd[r * groups + k];
                       for (Index c = k * group; c < (k + 1) * group; ++c) {
                         g[c] = scale * (g[c] - v[c] * dot);
                       }
                     }
                     if (before) {
                       if (dzp) {
                         for (Index c = 0; c < d; ++c) {
                           dzp[c] = convert<T>(g[c] * convert<A>(xp[c]) * slope[c]);
                         }
                       }
                       for (Index c = 0; c < d; ++c) {
                         g[c] *= s[c];
                       }
                     }
                     if (dxp) {
                       for (Index c = 0; c < d; ++c) {
                         dxp[c] = convert<T>(g[c]);
                       }
                     }
                   }
                 }
               });
  if (dw) {
    std::fill(dw, dw + d, A(0));
    for (Index p = 0; p < kPieces; ++p) {
      for (Index c = 0; c < d; ++c) {
        dw[c] += sums[static_cast<std::size_t>(p * d + c)];
      }
    }
  }
}

template <class T>
void rms_norm_forward(const RmsNorm::In<Tensor>& in, RmsNorm::Out<Tensor>& out,
                      const RmsNorm::Attrs& a) {
  a.gate_sigmoid ? forward_rows<T, act::Sigmoid>(in, out, a)
                 : forward_rows<T, act::Silu>(in, out, a);
}
template <class T>
void rms_norm_backward(const RmsNorm::In<Tensor>& in, const RmsNorm::Out<Tensor>& out,
                       const RmsNorm::Out<Tensor>& dout, RmsNorm::In<Tensor>& din,
                       const RmsNorm::Attrs& a) {
  a.gate_sigmoid ? backward_rows<T, act::Sigmoid>(in, out, dout, din, a)
                 : backward_rows<T, act::Silu>(in, out, dout, din, a);
}

template <class Real>
struct RmsNormRef {
  static void forward(const RmsNorm::In<Tensor>& in, RmsNorm::Out<Tensor>& out,
                      const RmsNorm::Attrs& a) {
    rms_norm_forward<Real>(in, out, a);
  }
  static void backward(const RmsNorm::In<Tensor>& in, const RmsNorm::Out<Tensor>& out,
                       const RmsNorm::Out<Tensor>& dout, RmsNorm::In<Tensor>& din,
                       const RmsNorm::Attrs& a) {
    rms_norm_backward<Real>(in, out, dout, din, a);
  }
};

Cost rms_norm_cost(const RmsNorm::In<Tensor>& in, const RmsNorm::Attrs&) {
  return {.bytes = (in.z.defined() ? 3.0 : 2.0) * static_cast<double>(in.x.bytes()),
          .flops = (in.z.defined() ? 12.0 : 4.0) * static_cast<double>(in.x.numel())};
}

LS_OP(RmsNorm, "rms_norm")
    .in("x[...,D] weight[D]:acc? z[...,D]?")
    .out("y[...,D] rstd[...,G]:acc")
    .saves("x weight z rstd")
    .bind(rms_norm_bind)
    .summary("root-mean-square norm, by groups, gated")
    .reference<RmsNormRef>()
    .cost(rms_norm_cost);

LS_KERNEL(RmsNorm).forward<bf16>(&rms_norm_forward<bf16>).backward<bf16>(&rms_norm_backward<bf16>);

}  // namespace
}  // namespace ls
