// One team of threads a row: the leading channels over the last.
#include "core/ops/row_normalize/row_normalize.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"

namespace ls::ops {
namespace {

using Op = RowNormalize;

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const RowPattern rows = *rows_of(in.x.layout());
    const Index last = rows.cols - 1;
    const cuda::RowsIn<T> x(in.x);
    T* const y = out.y.data<T>();
    const A eps = static_cast<A>(a.eps);
    cuda::for_each_row<1>(
        rows.count, rows.cols, [=] __device__(Index r, bool writes, auto team, auto) {
          const T* const row = x.row(r);
          const A divisor = cuda::to_acc<A>(row[last]) + eps;
          for (Index c = team.rank(); writes && c < last; c += team.kSize) {
            y[r * last + c] = cuda::from_acc<T>(cuda::to_acc<A>(row[c]) / divisor);
          }
        });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const RowPattern rows = *rows_of(in.x.layout());
    const Index last = rows.cols - 1;
    const cuda::RowsIn<T> x(in.x), gy(dout.y);
    T* const gx = din.x.data<T>();
    const A eps = static_cast<A>(a.eps);
    cuda::for_each_row<1>(rows.count, rows.cols,
                          [=] __device__(Index r, bool writes, auto team, auto) {
                            const T *const row = x.row(r), *const dy = gy.row(r);
                            const A divisor = cuda::to_acc<A>(row[last]) + eps;
                            T* const dx = gx + r * (last + 1);
                            A sum = 0;
                            for (Index c = team.rank(); c < last; c += team.kSize) {
                              const A g = cuda::to_acc<A>(dy[c]);
                              sum += g * cuda::to_acc<A>(row[c]);
                              if (writes) {
                                dx[c] = cuda::from_acc<T>(g / divisor);
                              }
                            }
                            sum = team.sum(sum);
                            if (writes && team.rank() == 0) {
                              dx[last] = cuda::from_acc<T>(-sum / (divisor * divisor));
                            }
                          });
  }
};

LS_KERNEL(RowNormalize)
    .on(DeviceType::kCuda)
    .reads("x y", lies::rows)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
