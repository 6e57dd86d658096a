// Elementwise: log f and 1 - f of x; gradients of bounds are summed over rows.
#include "core/ops/sigmoid_gate/sigmoid_gate.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"
#include "core/ops/common/activations.cuh"

namespace ls::ops {
namespace {

using Op = SigmoidGate;

/// The bound of a channel.
template <class A>
struct Bound {
  Bound(const Op::In<TensorView>& in, const Op::Attrs& a)
      : of_channel(in.low.defined() ? in.low.data<A>() : nullptr),
        of_all(static_cast<A>(a.lower_bound)) {}
  __device__ A operator()(Index c) const { return of_channel ? of_channel[c] : of_all; }
  const A* of_channel;
  A of_all;
};

template <class T>
struct Kernel {
  using A = acc_t<T>;
  /// Bounds of channels go with the columns of rows.
  static cuda::RowShape shape_of(const Op::In<TensorView>& in) {
    const RowPattern rows = *rows_of(in.x.layout());
    cuda::RowShape shape(rows.count, rows.cols);
    return in.low.defined() ? shape.apart() : shape;
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const cuda::RowsIn<T> x(in.x);
    const cuda::RowsTo<A> g(out.g);
    const cuda::RowsTo<T> k(out.k);
    const Bound<A> bound(in, a);
    const auto shape = shape_of(in).with(x).with(g).with(k);
    cuda::for_each<A>(shape, [=] __device__(Index r, Index c, auto width) {
      constexpr int kWidth = decltype(width)::value;
      A u[kWidth], written[kWidth];
      cuda::load(x.row(r) + c, u);
      for (int i = 0; i < kWidth; ++i) {
        const A low = bound(c + i);
        written[i] = (A(1) - low) * act::device_sigmoid(-u[i]);
        // log f, from f itself or from 1 - f, whichever is small.
        const A f = low + (A(1) - low) * act::device_sigmoid(u[i]);
        const A by_f = low > A(0) ? log(f) : -act::device_softplus(-u[i]);
        u[i] = written[i] < A(0.5) ? log1p(-written[i]) : by_f;
      }
      cuda::store(g.row(r) + c, u);
      cuda::store(k.row(r) + c, written);
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    if (din.x.defined()) {
      to_x(in, dout, din.x, a);
    }
    if (din.low.defined()) {
      to_low(in, dout, din.low, a);
    }
  }
  static void to_x(const Op::In<TensorView>& in, const Op::Out<TensorView>& dout,
                   TensorView& result, const Op::Attrs& a) {
    const cuda::RowsIn<T> x(in.x), gk(dout.k);
    const cuda::RowsIn<A> gg(dout.g);
    const cuda::RowsTo<T> gx(result);
    const Bound<A> bound(in, a);
    const auto shape = shape_of(in).with(x).with(gk).with(gg).with(gx);
    cuda::for_each<A>(shape, [=] __device__(Index r, Index c, auto width) {
      constexpr int kWidth = decltype(width)::value;
      A u[kWidth], dg[kWidth] = {}, dk[kWidth] = {};
      cuda::load(x.row(r) + c, u);
      if (gg) {
        cuda::load(gg.row(r) + c, dg);
      }
      if (gk) {
        cuda::load(gk.row(r) + c, dk);
      }
      for (int i = 0; i < kWidth; ++i) {
        const A low = bound(c + i);
        const A up = act::device_sigmoid(u[i]), down = act::device_sigmoid(-u[i]);
        const A over_f = low > A(0) ? up / (low + (A(1) - low) * up) : A(1);  // sigmoid / f
        u[i] = (A(1) - low) * down * (dg[i] * over_f - dk[i] * up);
      }
      cuda::store(gx.row(r) + c, u);
    });
  }
  static void to_low(const Op::In<TensorView>& in, const Op::Out<TensorView>& dout,
                     TensorView& result, const Op::Attrs& a) {
    const RowPattern rows = *rows_of(in.x.layout());
    const cuda::RowsIn<T> x(in.x), gk(dout.k);
    const cuda::RowsIn<A> gg(dout.g);
    const Bound<A> bound(in, a);
    cuda::column_sums<1, A>(rows.count, rows.cols, {{result.data<A>()}},
                            [=] __device__(Index r, Index c, A(&sum)[1]) {
                              const A v = cuda::to_acc<A>(x.row(r)[c]), low = bound(c);
                              const A f = low + (A(1) - low) * act::device_sigmoid(v);
                              const A of_g = gg ? gg.row(r)[c] / f : A(0);
                              const A of_k = gk ? cuda::to_acc<A>(gk.row(r)[c]) : A(0);
                              sum[0] = act::device_sigmoid(-v) * (of_g - of_k);
                            });
  }
};

LS_KERNEL(SigmoidGate)
    .on(DeviceType::kCuda)
    .reads("x g k", lies::rows)
    .strided_grad("x")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
