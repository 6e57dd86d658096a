// One team of threads a row. The norm is that of the rounded sum, which the second reading finds in
// cache; the gradient of the weight is summed over rows in a pass of its own.
#include "core/ops/add_rms_norm/add_rms_norm.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"

namespace ls::ops {
namespace {

using Op = AddRmsNorm;

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const RowPattern rows = *rows_of(in.x.layout());
    const Index n = rows.cols;
    const cuda::RowsIn<T> x(in.x), residual(in.residual);
    const A* const weight = in.weight.data<A>();
    T *const sum = out.sum.data<T>(), *const y = out.y.data<T>();
    A* const rstd = out.rstd.data<A>();
    const A eps = static_cast<A>(a.eps);
    cuda::for_each_row(rows.count, n, [=] __device__(Index r, bool writes, auto team) {
      const auto added = [&](Index c) {
        return cuda::from_acc<T>(cuda::to_acc<A>(residual.row(r)[c]) +
                                 cuda::to_acc<A>(x.row(r)[c]));
      };
      A square = 0;
      for (Index c = team.rank(); c < n; c += team.kSize) {
        const T s = added(c);
        const A v = cuda::to_acc<A>(s);
        square += v * v;
        if (writes) {
          sum[r * n + c] = s;
        }
      }
      const A k = A(1) / sqrt(team.sum(square) / static_cast<A>(n) + eps);
      if (writes && team.rank() == 0) {
        rstd[r] = k;
      }
      for (Index c = team.rank(); writes && c < n; c += team.kSize) {
        y[r * n + c] = cuda::from_acc<T>(cuda::to_acc<A>(added(c)) * k * weight[c]);
      }
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const Index n = out.sum.size(-1), count = n > 0 ? out.sum.numel() / n : 0;
    const cuda::RowsIn<T> sum(out.sum), gsum(dout.sum), gy(dout.y);
    const A* const weight = in.weight.data<A>();
    const A* const rstd = out.rstd.data<A>();
    const cuda::RowsTo<T> gx(din.x.defined() ? din.x : din.residual);
    if (gx) {
      cuda::for_each_row(count, n, [=] __device__(Index r, bool writes, auto team) {
        const T* const s = sum.row(r);
        const A k = rstd[r];
        A product = 0;
        for (Index c = team.rank(); gy && c < n; c += team.kSize) {
          product += cuda::to_acc<A>(gy.row(r)[c]) * weight[c] * cuda::to_acc<A>(s[c]);
        }
        const A mean = team.sum(product) / static_cast<A>(n);
        for (Index c = team.rank(); writes && c < n; c += team.kSize) {
          const A dy = gy ? cuda::to_acc<A>(gy.row(r)[c]) : A(0);
          const A ds = gsum ? cuda::to_acc<A>(gsum.row(r)[c]) : A(0);
          const A g = ds + k * (dy * weight[c] - cuda::to_acc<A>(s[c]) * k * k * mean);
          gx.row(r)[c] = cuda::from_acc<T>(g);
        }
      });
    }
    if (din.weight.defined()) {
      cuda::column_sums<1, A>(count, n, {{din.weight.data<A>()}},
                              [=] __device__(Index r, Index c, A(&of_row)[1]) {
                                const A dy = gy ? cuda::to_acc<A>(gy.row(r)[c]) : A(0);
                                of_row[0] = dy * cuda::to_acc<A>(sum.row(r)[c]) * rstd[r];
                              });
    }
  }
};

LS_KERNEL(AddRmsNorm)
    .on(DeviceType::kCuda)
    .reads("x residual sum y", lies::rows)
    .strided_grad("x")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
