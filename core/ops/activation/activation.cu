// y = act(x): 16 bytes a thread.
#include "core/ops/activation/activation.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"
#include "core/ops/common/activations.cuh"

namespace ls::ops {
namespace {

using Op = Activation;

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static cuda::RowShape shape_of(const TensorView& x) {
    const RowPattern rows = *rows_of(x.layout());
    return {rows.count, rows.cols};
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const cuda::RowsIn<T> x(in.x);
    const cuda::RowsTo<T> y(out.y);
    const Act act = a.activation;
    cuda::for_each<T>(shape_of(in.x).with(x).with(y), [=] __device__(Index r, Index c, auto width) {
      A u[decltype(width)::value];
      cuda::load(x.row(r) + c, u);
      act::device_values(act, u);
      cuda::store(y.row(r) + c, u);
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const cuda::RowsIn<T> x(in.x), gy(dout.y);
    const cuda::RowsTo<T> gx(din.x);
    const Act act = a.activation;
    const auto shape = shape_of(in.x).with(x).with(gy).with(gx);
    cuda::for_each<T>(shape, [=] __device__(Index r, Index c, auto width) {
      constexpr int kWidth = decltype(width)::value;
      A u[kWidth], slope[kWidth], g[kWidth];
      cuda::load(x.row(r) + c, u);
      cuda::load(gy.row(r) + c, g);
      act::device_values(act, u, slope);
      for (int i = 0; i < kWidth; ++i) {
        g[i] *= slope[i];
      }
      cuda::store(gx.row(r) + c, g);
    });
  }
};

LS_KERNEL(Activation)
    .on(DeviceType::kCuda)
    .reads("x y", lies::rows)
    .strided_grad("x")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
