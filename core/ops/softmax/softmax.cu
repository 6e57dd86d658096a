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
template <class A, class T, class Team>
__device__ Peak<A> peak_of(const T* row, Index n, A scale, Team team) {
  A top = -INFINITY;
  for (Index c = team.rank(); c < n; c += team.kSize) {
    top = cuda::Greater()(top, scale * cuda::to_acc<A>(row[c]));
  }
  top = team.max(top);
  A sum = 0;
  for (Index c = team.rank(); c < n; c += team.kSize) {
    sum += exp(scale * cuda::to_acc<A>(row[c]) - top);
  }
  return {top, team.sum(sum)};
}

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const RowPattern rows = *rows_of(in.x.layout());
    const Index n = rows.cols;
    const cuda::RowsIn<T> x(in.x);
    T* const y = out.y.data<T>();
    A* const lse = out.lse.data<A>();
    const A scale = static_cast<A>(a.scale);
    const bool is_log = a.log;
    cuda::for_each_row(rows.count, n, [=] __device__(Index r, bool writes, auto team) {
      const T* const row = x.row(r);
      const Peak<A> peak = peak_of(row, n, scale, team);
      const A log_sum = log(peak.sum);
      for (Index c = team.rank(); writes && c < n; c += team.kSize) {
        const A z = scale * cuda::to_acc<A>(row[c]) - peak.top;
        y[r * n + c] = cuda::from_acc<T>(is_log ? z - log_sum : exp(z) / peak.sum);
      }
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
    cuda::for_each_row(rows.count, n, [=] __device__(Index r, bool writes, auto team) {
      const T* const row = x.row(r);
      const Peak<A> peak = peak_of(row, n, scale, team);
      const auto p = [&](Index c) {
        return exp(scale * cuda::to_acc<A>(row[c]) - peak.top) / peak.sum;
      };
      const auto dy = [&](Index c) { return gy ? cuda::to_acc<A>(gy.row(r)[c]) : A(0); };
      A sum = 0;
      for (Index c = team.rank(); gy && c < n; c += team.kSize) {
        sum += is_log ? dy(c) : dy(c) * p(c);
      }
      const A common = (glse ? glse[r] : A(0)) - team.sum(sum);
      for (Index c = team.rank(); writes && c < n; c += team.kSize) {
        const A dz = is_log ? dy(c) + p(c) * common : p(c) * (dy(c) + common);
        gx.row(r)[c] = cuda::from_acc<T>(scale * dz);
      }
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
