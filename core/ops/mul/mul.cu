// Two factors, one product; 16 bytes of each a thread.
#include "core/ops/mul/mul.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"

namespace ls::ops {
namespace {

/// y = a * b.
template <class T>
void multiply(const TensorView& left, const TensorView& right, TensorView& result) {
  using A = acc_t<T>;
  const cuda::RowsIn<T> a(left), b(right);
  const cuda::RowsTo<T> y(result);
  const auto shape = cuda::RowShape(rows_of(left.layout())->count, y.cols).with(a).with(b).with(y);
  cuda::for_each<T>(shape, [=] __device__(Index r, Index c, auto width) {
    constexpr int kWidth = decltype(width)::value;
    A u[kWidth], v[kWidth];
    cuda::load(a.row(r) + c, u);
    cuda::load(b.row(r) + c, v);
    for (int i = 0; i < kWidth; ++i) {
      u[i] *= v[i];
    }
    cuda::store(y.row(r) + c, u);
  });
}

template <class T>
struct Kernel {
  static void forward(const Mul::In<TensorView>& in, Mul::Out<TensorView>& out, const Mul::Attrs&) {
    multiply<T>(in.a, in.b, out.y);
  }
  static void backward(const Mul::In<TensorView>& in, const Mul::Out<TensorView>&,
                       const Mul::Out<TensorView>& dout, Mul::In<TensorView>& din,
                       const Mul::Attrs&) {
    if (din.a.defined()) {
      multiply<T>(dout.y, in.b, din.a);
    }
    if (din.b.defined()) {
      multiply<T>(dout.y, in.a, din.b);
    }
  }
};

LS_KERNEL(Mul)
    .on(DeviceType::kCuda)
    .reads("a b y", lies::rows)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
