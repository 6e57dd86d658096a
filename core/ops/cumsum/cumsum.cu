// Sums in f64. Along the last axis a warp takes a row, 32 elements at a time; along others a thread
// takes a column.
#include "core/ops/cumsum/cumsum.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"

namespace ls::ops {
namespace {

using Op = Cumsum;

/// [outer, n, inner], summed along n.
struct Extents {
  Index outer = 1, n = 1, inner = 1;
  Extents(const TensorView& x, int axis) {
    axis += axis < 0 ? x.rank() : 0;
    for (int i = 0; i < x.rank(); ++i) {
      (i < axis ? outer : i == axis ? n : inner) *= x.size(i);
    }
  }
};

template <class T>
__global__ void __launch_bounds__(256)
    scan_rows_kernel(Index rows, Index n, bool from_the_end, const T* x, T* y) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Index r = Index{blockIdx.x} * 8 + threadIdx.x / 32;
  if (r >= rows) {
    return;
  }
  double before = 0;
  for (Index first = 0; first < n; first += 32) {
    const Index k = first + lane, i = r * n + (from_the_end ? n - 1 - k : k);
    double sum = k < n ? cuda::to_acc<double>(x[i]) : 0;
    for (int step = 1; step < 32; step *= 2) {
      const double other = __shfl_up_sync(cuda::kAllLanes, sum, step);
      sum += lane >= step ? other : 0;
    }
    sum += before;
    if (k < n) {
      y[i] = cuda::from_acc<T>(static_cast<acc_t<T>>(sum));
    }
    before = __shfl_sync(cuda::kAllLanes, sum, 31);
  }
}

template <class T>
struct Kernel {
  static void sums(const TensorView& in, TensorView& out, int axis, bool from_the_end) {
    const Extents e(in, axis);
    const T* const x = in.data<T>();
    T* const y = out.data<T>();
    if (e.inner == 1) {
      cuda::launch(&scan_rows_kernel<T>, dim3(static_cast<unsigned>(cuda::blocks_for(e.outer, 8))),
                   dim3(256), 0, e.outer, e.n, from_the_end, x, y);
      return;
    }
    const Index n = e.n, inner = e.inner;
    cuda::for_each<1>(cuda::RowShape(e.outer, inner).apart(),
                      [=] __device__(Index o, Index c, auto) {
                        double sum = 0;
                        for (Index k = 0; k < n; ++k) {
                          const Index i = (o * n + (from_the_end ? n - 1 - k : k)) * inner + c;
                          sum += cuda::to_acc<double>(x[i]);
                          y[i] = cuda::from_acc<T>(static_cast<acc_t<T>>(sum));
                        }
                      });
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    sums(in.x, out.y, a.axis, a.reverse);
  }
  static void backward(const Op::In<TensorView>&, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    sums(dout.y, din.x, a.axis, !a.reverse);
  }
};

LS_KERNEL(Cumsum).on(DeviceType::kCuda).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
