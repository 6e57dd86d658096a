#include "core/ops/rms_norm/rms_norm.h"

#include <cmath>
#include <vector>

#include "core/backend/cpu/parallel_for.h"
#include "core/backend/cpu/rows.h"
#include "core/ops/activation/functions.h"

namespace ls {
namespace {

Index group_of(const Tensor& x, const RmsNorm::Attrs& a) { return a.group_size > 0 ? a.group_size : x.size(-1); }

void rms_norm_bind(const RmsNorm::In<Tensor>& in, const RmsNorm::Attrs& a, Bindings& b) {
  const Index d = in.x.size(-1), g = group_of(in.x, a);
  LS_CHECK(g > 0 && d % g == 0, kShape, "rms_norm: groups of {} channels do not divide {}", g, d);
  b.set("G", d / g);
}

template <class T, class Gate>
void forward_rows(const RmsNorm::In<Tensor>& in, RmsNorm::Out<Tensor>& out, const RmsNorm::Attrs& a) {
  using A = acc_t<T>;
  const Rows x(in.x);
  const Tensor z_or_x = in.z.defined() ? in.z : in.x;
  const Rows z(z_or_x);
  const Tensor weight = in.weight.defined() ? in.weight.contiguous() : Tensor();
  const A* w = weight.defined() ? weight.data<A>() : nullptr;
  const Index d = x.cols, group = group_of(in.x, a), groups = d / group;
  const A offset = static_cast<A>(a.weight_offset), eps = static_cast<A>(a.eps);
  const bool gated = in.z.defined(), after = gated && a.norm_before_gate, before = gated && !a.norm_before_gate;
  T* y = out.y.data<T>();
  A* rstd = out.rstd.data<A>();
  parallel_for(x.count, std::max<Index>(1, 8192 / std::max<Index>(1, d)), [&](Index r0, Index r1) {
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
          v[c] *= k * (w ? offset + w[c] : A(1));
        }
      }
      if (after) {
        for (Index c = 0; c < d; ++c) {
          v[c] *= Gate::f(convert<A>(zp[c]));
        }
      }
      for (Index c = 0; c < d; ++c) {
        yp[c] = convert<T>(v[c]);
      }
    }
  });
}

template <class T, class Gate>
void backward_rows(const RmsNorm::In<Tensor>& in, const RmsNorm::Out<Tensor>& out, const RmsNorm::Out<Tensor>& dout,
                   RmsNorm::In<Tensor>& din, const RmsNorm::Attrs& a) {
  using A = acc_t<T>;
  const Rows x(in.x), dy(dout.y);
  const Tensor z_or_x = in.z.defined() ? in.z : in.x;
  const Rows z(z_or_x);
  const Tensor weight = in.weight.defined() ? in.weight.contiguous() : Tensor();
  const A* w = weight.defined() ? weight.data<A>() : nullptr;
  const Index d = x.cols, group = group_of(in.x, a), groups = d / group;
  const A offset = static_cast<A>(a.weight_offset);
  const bool gated = in.z.defined(), after = gated && a.norm_before_gate, before = gated && !a.norm_before_gate;
  const A* rstd = out.rstd.data<A>();
  T* dx = din.x.defined() ? din.x.data<T>() : nullptr;
  T* dz = din.z.defined() ? din.z.data<T>() : nullptr;
  A* dw = din.weight.defined() ? din.weight.data<A>() : nullptr;
  // Fixed pieces of rows give sums of the gain's gradient that do not depend on the thread count.
  constexpr Index kPieces = 16;
  std::vector<A> sums(dw ? static_cast<std::size_t>(kPieces * d) : 0);
  parallel_for(kPieces, std::max<Index>(1, 8192 * kPieces / std::max<Index>(1, x.count * d)), [&](Index p0, Index p1) {
    std::vector<A> buffer(static_cast<std::size_t>(3 * d));
    A* __restrict v = buffer.data();  // normalised input (before the gain)
    A* __restrict g = v + d;          // gradient of the gained norm
    A* __restrict s = g + d;          // gate
    for (Index piece = p0; piece < p1; ++piece) {
      A* __restrict sum = dw ? sums.data() + piece * d : nullptr;
      for (Index r = x.count * piece / kPieces; r < x.count * (piece + 1) / kPieces; ++r) {
        const T* xp = x.row<T>(r);
        const T* zp = z.row<T>(r);
        const T* gp = dy.row<T>(r);
        for (Index c = 0; c < d; ++c) {
          v[c] = convert<A>(xp[c]);
          g[c] = convert<A>(gp[c]);
        }
        if (gated) {
          for (Index c = 0; c < d; ++c) {
            s[c] = Gate::f(convert<A>(zp[c]));
          }
        }
        if (before) {
          for (Index c = 0; c < d; ++c) {
            v[c] *= s[c];
          }
        }
        for (Index k = 0; k < groups; ++k) {
          for (Index c = k * group; c < (k + 1) * group; ++c) {
            v[c] *= rstd[r * groups + k];
          }
        }
        if (after) {
          if (dz) {
            for (Index c = 0; c < d; ++c) {
              dz[r * d + c] = convert<T>(g[c] * v[c] * (w ? offset + w[c] : A(1)) * Gate::d(convert<A>(zp[c])));
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
        if (!dx && !(dz && before)) {
          continue;
        }
        for (Index c = 0; c < d && w; ++c) {
          g[c] *= offset + w[c];
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
        if (before && dz) {
          for (Index c = 0; c < d; ++c) {
            dz[r * d + c] = convert<T>(g[c] * convert<A>(xp[c]) * Gate::d(convert<A>(zp[c])));
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
void rms_norm_forward(const RmsNorm::In<Tensor>& in, RmsNorm::Out<Tensor>& out, const RmsNorm::Attrs& a) {
  a.gate_sigmoid ? forward_rows<T, act::Sigmoid>(in, out, a) : forward_rows<T, act::Silu>(in, out, a);
}
template <class T>
void rms_norm_backward(const RmsNorm::In<Tensor>& in, const RmsNorm::Out<Tensor>& out, const RmsNorm::Out<Tensor>& dout,
                       RmsNorm::In<Tensor>& din, const RmsNorm::Attrs& a) {
  a.gate_sigmoid ? backward_rows<T, act::Sigmoid>(in, out, dout, din, a) : backward_rows<T, act::Silu>(in, out, dout, din, a);
}

template <class Real>
struct RmsNormRef {
  static void forward(const RmsNorm::In<Tensor>& in, RmsNorm::Out<Tensor>& out, const RmsNorm::Attrs& a) {
    rms_norm_forward<Real>(in, out, a);
  }
  static void backward(const RmsNorm::In<Tensor>& in, const RmsNorm::Out<Tensor>& out, const RmsNorm::Out<Tensor>& dout,
                       RmsNorm::In<Tensor>& din, const RmsNorm::Attrs& a) {
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
