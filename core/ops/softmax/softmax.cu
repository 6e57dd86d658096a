// One team of threads a row, which reads it three times, all but the first from cache.
#include "core/ops/softmax/softmax.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"

namespace ls::ops {
namespace {

using Op = Softmax;

/// z = scale x of one row: greatest value and sum of exp(z - greatest).
template <class A>
struct Peak {
  A top, sum;
};
template <int kWidth, class A, class T, class Team>
__device__ Peak<A> peak_of(const T* row, Index n, A scale, Team team) {
  A top = -INFINITY;
  team.template each<kWidth>(n, [&](Index c) {
    A x[kWidth];
    cuda::load(row + c, x);
    for (int i = 0; i < kWidth; ++i) {
      top = cuda::Greater()(top, scale * x[i]);
    }
  });
  top = team.max(top);
  A sum = 0;
  team.template each<kWidth>(n, [&](Index c) {
    A x[kWidth];
    cuda::load(row + c, x);
    for (int i = 0; i < kWidth; ++i) {
      sum += exp(scale * x[i] - top);
    }
  });
  return {top, team.sum(sum)};
}

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const RowPattern rows = *rows_of(in.x.layout());
    const Index n = rows.cols;
    const cuda::RowsIn<T> x(in.x);
    const cuda::RowsTo<T> y(out.y);
    A* const lse = out.lse.data<A>();
    const A scale = static_cast<A>(a.scale);
    const bool is_log = a.log;
    cuda::for_each_row<T>(rows.count, n,
                          [=] __device__(Index r, bool writes, auto team, auto width) {
                            constexpr int kWidth = decltype(width)::value;
                            const T* const row = x.row(r);
                            const Peak<A> peak = peak_of<kWidth>(row, n, scale, team);
                            const A log_sum = log(peak.sum);
                            team.template each<kWidth>(writes ? n : 0, [&](Index c) {
                              A z[kWidth];
                              cuda::load(row + c, z);
                              for (int i = 0; i < kWidth; ++i) {
                                z[i] = scale * z[i] - peak.top;
                                z[i] = is_log ? z[i] - log_sum : exp(z[i]) / peak.sum;
                              }
                              cuda::store(y.row(r) + c, z);
                            });
                            if (writes && team.rank() == 0) {
                              lse[r] = peak.top + log_sum;
                            }
                          });
  }
  /// dz_j = p_j (dlse + dy_j - sum_i dy_i p_i), or dy_j + p_j (dlse - sum_i dy_i) of the logarithm.
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const RowPattern rows = *rows_of(in.x.layout());
    const Index n = rows.cols;
    const cuda::RowsIn<T> x(in.x), gy(dout.y);
    const A* const glse = dout.lse.defined() ? dout.lse.data<A>() : nullptr;
    const cuda::RowsTo<T> gx(din.x);
    const A scale = static_cast<A>(a.scale);
    const bool is_log = a.log;
    cuda::for_each_row<T>(
        rows.count, n, [=] __device__(Index r, bool writes, auto team, auto width) {
          constexpr int kWidth = decltype(width)::value;
          const T* const row = x.row(r);
          const Peak<A> peak = peak_of<kWidth>(row, n, scale, team);
          // p and dy of neighbours.
          const auto read = [&](Index c, A(&p)[kWidth], A(&dy)[kWidth]) {
            cuda::load(row + c, p);
            if (gy) {
              cuda::load(gy.row(r) + c, dy);
            }
            for (int i = 0; i < kWidth; ++i) {
              p[i] = exp(scale * p[i] - peak.top) / peak.sum;
            }
          };
          A sum = 0;
          team.template each<kWidth>(gy ? n : 0, [&](Index c) {
            A p[kWidth], dy[kWidth] = {};
            read(c, p, dy);
            for (int i = 0; i < kWidth; ++i) {
              sum += is_log ? dy[i] : dy[i] * p[i];
            }
          });
          const A common = (glse ? glse[r] : A(0)) - team.sum(sum);
          team.template each<kWidth>(writes ? n : 0, [&](Index c) {
            A p[kWidth], dy[kWidth] = {};
            read(c, p, dy);
            for (int i = 0; i < kWidth; ++i) {
              p[i] = scale * (is_log ? dy[i] + p[i] * common : p[i] * (dy[i] + common));
            }
            cuda::store(gx.row(r) + c, p);
          });
        });
  }
};

LS_KERNEL(Softmax)
    .on(DeviceType::kCuda)
    .reads("x y", lies::rows)
    .strided_grad("x")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
