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
    const cuda::RowsTo<T> sum(out.sum), y(out.y);
    const A* const weight = in.weight.data<A>();
    A* const rstd = out.rstd.data<A>();
    const A eps = static_cast<A>(a.eps);
    cuda::for_each_row<T>(rows.count, n,
                          [=] __device__(Index r, bool writes, auto team, auto width) {
                            constexpr int kWidth = decltype(width)::value;
                            // The rounded sum.
                            const auto added = [&](Index c, A(&to)[kWidth]) {
                              A u[kWidth];
                              cuda::load(x.row(r) + c, u);
                              cuda::load(residual.row(r) + c, to);
                              for (int i = 0; i < kWidth; ++i) {
                                to[i] = cuda::to_acc<A>(cuda::from_acc<T>(to[i] + u[i]));
                              }
                            };
                            A square = 0;
                            team.template each<kWidth>(n, [&](Index c) {
                              A v[kWidth];
                              added(c, v);
                              for (int i = 0; i < kWidth; ++i) {
                                square += v[i] * v[i];
                              }
                              if (writes) {
                                cuda::store(sum.row(r) + c, v);
                              }
                            });
                            const A k = A(1) / sqrt(team.sum(square) / static_cast<A>(n) + eps);
                            if (writes && team.rank() == 0) {
                              rstd[r] = k;
                            }
                            team.template each<kWidth>(writes ? n : 0, [&](Index c) {
                              A v[kWidth], w[kWidth];
                              added(c, v);
                              cuda::load(weight + c, w);
                              for (int i = 0; i < kWidth; ++i) {
                                v[i] *= k * w[i];
                              }
                              cuda::store(y.row(r) + c, v);
                            });
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
      cuda::for_each_row<T>(count, n, [=] __device__(Index r, bool writes, auto team, auto width) {
        constexpr int kWidth = decltype(width)::value;
        const T* const row = sum.row(r);
        const A k = rstd[r];
        A product = 0;
        team.template each<kWidth>(gy ? n : 0, [&](Index c) {
          A s[kWidth], dy[kWidth], w[kWidth];
          cuda::load(row + c, s);
          cuda::load(gy.row(r) + c, dy);
          cuda::load(weight + c, w);
          for (int i = 0; i < kWidth; ++i) {
            product += dy[i] * w[i] * s[i];
          }
        });
        const A along = k * k * k * team.sum(product) / static_cast<A>(n);
        team.template each<kWidth>(writes ? n : 0, [&](Index c) {
          A s[kWidth], dy[kWidth] = {}, ds[kWidth] = {}, w[kWidth];
          cuda::load(row + c, s);
          cuda::load(weight + c, w);
          if (gy) {
            cuda::load(gy.row(r) + c, dy);
          }
          if (gsum) {
            cuda::load(gsum.row(r) + c, ds);
          }
          for (int i = 0; i < kWidth; ++i) {
            ds[i] += k * dy[i] * w[i] - s[i] * along;
          }
          cuda::store(gx.row(r) + c, ds);
        });
      });
    }
    if (din.weight.defined()) {
      cuda::packed_column_sums<1, A>(count, n, {{din.weight.data<A>()}},
                                     [=] __device__(Index r, Index c, auto width, auto& of_row) {
                                       constexpr int kWidth = decltype(width)::value;
                                       A s[kWidth], dy[kWidth] = {};
                                       cuda::load(sum.row(r) + c, s);
                                       if (gy) {
                                         cuda::load(gy.row(r) + c, dy);
                                       }
                                       for (int i = 0; i < kWidth; ++i) {
                                         of_row[0][i] = dy[i] * s[i] * rstd[r];
                                       }
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
