// y = act(x + bias): 16 bytes a thread; the gradient of the bias is summed over rows in parts, in
// the pass that makes the gradient of x.
#include "core/ops/bias_act/bias_act.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"
#include "core/ops/common/activations.cuh"

namespace ls::ops {
namespace {

using Op = BiasAct;

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const RowPattern rows = *rows_of(in.x.layout());
    const cuda::RowsIn<T> x(in.x);
    const cuda::RowsTo<T> y(out.y);
    const A* const bias = in.bias.defined() ? in.bias.data<A>() : nullptr;
    const Act act = a.activation;
    const auto shape = cuda::RowShape(rows.count, rows.cols).with(x).with(y).apart();
    cuda::for_each<T>(shape, [=] __device__(Index r, Index c, auto width) {
      constexpr int kWidth = decltype(width)::value;
      A u[kWidth];
      cuda::load(x.row(r) + c, u);
      for (int i = 0; i < kWidth; ++i) {
        u[i] += bias ? bias[c + i] : A(0);
      }
      act::device_values(act, u);
      cuda::store(y.row(r) + c, u);
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const RowPattern rows = *rows_of(in.x.layout());
    const cuda::RowsIn<T> x(in.x), gy(dout.y);
    const cuda::RowsTo<T> gx(din.x);
    const A* const bias = in.bias.defined() ? in.bias.data<A>() : nullptr;
    const Act act = a.activation;
    A* const gbias = din.bias.defined() ? din.bias.data<A>() : nullptr;
    cuda::packed_column_sums<T, 1, A>(rows.count, rows.cols, {{gbias}},
                                      [=] __device__(Index r, Index c, auto width, auto& sum) {
                                        constexpr int kWidth = decltype(width)::value;
                                        A u[kWidth], slope[kWidth];
                                        cuda::load(x.row(r) + c, u);
                                        cuda::load(gy.row(r) + c, sum[0]);
                                        for (int i = 0; i < kWidth; ++i) {
                                          u[i] += bias ? bias[c + i] : A(0);
                                        }
                                        act::device_values(act, u, slope);
                                        for (int i = 0; i < kWidth; ++i) {
                                          sum[0][i] *= slope[i];
                                        }
                                        if (gx) {
                                          cuda::store(gx.row(r) + c, sum[0]);
                                        }
                                      });
  }
};

LS_KERNEL(BiasAct)
    .on(DeviceType::kCuda)
    .reads("x y", lies::rows)
    .strided_grad("x")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
