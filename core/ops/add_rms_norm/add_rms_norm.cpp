#include "core/ops/add_rms_norm/add_rms_norm.h"

#include <cmath>
#include <vector>

#include "core/backend/cpu/parallel_for.h"
#include "core/backend/cpu/rows.h"

namespace ls {
namespace {

using Op = AddRmsNorm;

template <class T>
void add_norm_forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
  using A = acc_t<T>;
  const Rows x(in.x), residual(in.residual);
  const Tensor weight = in.weight.contiguous();
  const A* __restrict w = weight.data<A>();
  const Index d = x.cols;
  T* sum = out.sum.data<T>();
  T* y = out.y.data<T>();
  A* rstd = out.rstd.data<A>();
  parallel_for(x.count, std::max<Index>(1, 8192 / std::max<Index>(1, d)), [&](Index r0, Index r1) {
    for (Index r = r0; r < r1; ++r) {
      const T* __restrict xp = x.row<T>(r);
      const T* __restrict rp = residual.row<T>(r);
      T* __restrict sp = sum + r * d;
      T* __restrict yp = y + r * d;
      A square = 0;
#pragma omp simd reduction(+ : square)
      for (Index c = 0; c < d; ++c) {
        sp[c] = convert<T>(convert<A>(xp[c]) + convert<A>(rp[c]));
        const A v = convert<A>(sp[c]);
        square += v * v;
      }
      const A k = A(1) / std::sqrt(square / static_cast<A>(d) + static_cast<A>(a.eps));
      rstd[r] = k;
      for (Index c = 0; c < d; ++c) {
        yp[c] = convert<T>(convert<A>(sp[c]) * k * w[c]);
      }
    }
  });
}

template <class T>
void add_norm_backward(const Op::In<Tensor>& in, const Op::Out<Tensor>& out,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs&) {
  using A = acc_t<T>;
  const Tensor weight = in.weight.contiguous();
  const A* __restrict w = weight.data<A>();
  const T* sum = out.sum.data<T>();
  const A* rstd = out.rstd.data<A>();
  const Index d = out.sum.size(-1), rows = d > 0 ? out.sum.numel() / d : 0;
  const Tensor zero =
      dout.y.defined() && dout.sum.defined() ? Tensor() : Tensor::zeros({1, d}, out.sum.dtype());
  const Rows dy(dout.y.defined() ? dout.y : zero), dsum(dout.sum.defined() ? dout.sum : zero);
  T* dx = din.x.defined() ? din.x.data<T>() : nullptr;
  T* dr = din.residual.defined() ? din.residual.data<T>() : nullptr;
  A* dw = din.weight.defined() ? din.weight.data<A>() : nullptr;
  constexpr Index kPieces = 16;  // sums over fixed pieces do not depend on the thread count
  std::vector<A> sums(static_cast<std::size_t>(kPieces * d));
  parallel_for(kPieces, std::max<Index>(1, 8192 * kPieces / std::max<Index>(1, rows * d)),
               [&](Index p0, Index p1) {
                 for (Index piece = p0; piece < p1; ++piece) {
                   A* __restrict acc = sums.data() + piece * d;
                   for (Index r = rows * piece / kPieces; r < rows * (piece + 1) / kPieces; ++r) {
                     const T* __restrict sp = sum + r * d;
                     const T* __restrict gp = dy.row<T>(dout.y.defined() ? r : 0);
                     const T* __restrict ep = dsum.row<T>(dout.sum.defined() ? r : 0);
                     const A k = rstd[r];
                     A dot = 0;
#pragma omp simd reduction(+ : dot)
                     for (Index c = 0; c < d; ++c) {
                       const A v = convert<A>(sp[c]) * k, g = convert<A>(gp[c]);
                       acc[c] += g * v;
                       dot += g * w[c] * v;
                     }
                     dot /= static_cast<A>(d);
                     T* __restrict first = (dx ? dx : dr) + r * d;
                     if (!dx && !dr) {
                       continue;
                     }
                     for (Index c = 0; c < d; ++c) {
                       const A v = convert<A>(sp[c]) * k;
                       first[c] =
                           convert<T>(k * (convert<A>(gp[c]) * w[c] - v * dot) + convert<A>(ep[c]));
                     }
                     if (dx && dr) {
                       std::copy(first, first + d, dr + r * d);
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

template <class Real>
struct AddRmsNormRef {
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    add_norm_forward<Real>(in, out, a);
  }
  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>& out,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs& a) {
    add_norm_backward<Real>(in, out, dout, din, a);
  }
};

Cost add_rms_norm_cost(const Op::In<Tensor>& in, const Op::Attrs&) {
  return {.bytes = 4.0 * static_cast<double>(in.x.bytes()),
          .flops = 5.0 * static_cast<double>(in.x.numel())};
}

LS_OP(AddRmsNorm, "add_rms_norm")
    .in("x[...,D] residual[...,D] weight[D]:acc")
    .out("sum[...,D] y[...,D] rstd[...]:acc")
    .saves("weight sum rstd")
    .summary("residual sum and its root-mean-square norm")
    .reference<AddRmsNormRef>()
    .cost(add_rms_norm_cost);

LS_KERNEL(AddRmsNorm)
    .forward<bf16>(&add_norm_forward<bf16>)
    .backward<bf16>(&add_norm_backward<bf16>);

}  // namespace
}  // namespace ls
