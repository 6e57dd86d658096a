// h = act(gate) up in a pass of its own, then products by cuBLASLt; backward makes h again beside
// dx.
#include "core/ops/glu_linear/glu_linear.h"

#include "core/op/op.h"
#include "core/ops/common/activations.cuh"
#include "core/ops/common/few_rows.cuh"

namespace ls::ops {
namespace {

using Op = GluLinear;

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static constexpr DType kType = dtype_of_v<T>, kAcc = dtype_of_v<A>;

  /// h [rows,F] of x [rows,2F].
  static void hidden(const TensorView& x, Act act, T* h) {
    const RowPattern rows = *rows_of(x.layout());
    const Index f = rows.cols / 2;
    const cuda::RowsIn<T> gate(x);
    cuda::RowsIn<T> up = gate;
    up.base += f;
    const cuda::RowsIn<T> whole{h, f};
    const auto shape = cuda::RowShape(rows.count, f).with(gate).with(up).with(whole);
    cuda::for_each<T>(shape, [=] __device__(Index r, Index c, auto width) {
      constexpr int kWidth = decltype(width)::value;
      A g[kWidth], u[kWidth];
      cuda::load(gate.row(r) + c, g);
      cuda::load(up.row(r) + c, u);
      act::device_values(act, g);
      for (int i = 0; i < kWidth; ++i) {
        u[i] *= g[i];
      }
      cuda::store(h + r * f + c, u);
    });
  }
  /// dx of dh, in whose place h is put.
  static void spread(const TensorView& x, T* gh, Act act, TensorView& result) {
    const RowPattern rows = *rows_of(x.layout());
    const Index f = rows.cols / 2;
    const cuda::RowsIn<T> gate(x), dh{gh, f};
    cuda::RowsIn<T> up = gate;
    up.base += f;
    cuda::RowsTo<T> ggate(result), gup(result);
    gup.base += f;
    const auto shape =
        cuda::RowShape(rows.count, f).with(gate).with(up).with(dh).with(ggate).with(gup);
    cuda::for_each<T>(shape, [=] __device__(Index r, Index c, auto width) {
      constexpr int kWidth = decltype(width)::value;
      A g[kWidth], slope[kWidth], u[kWidth], d[kWidth], h[kWidth];
      cuda::load(gate.row(r) + c, g);
      cuda::load(up.row(r) + c, u);
      cuda::load(gh + r * f + c, d);
      act::device_values(act, g, slope);
      for (int i = 0; i < kWidth; ++i) {
        h[i] = u[i] * g[i];
        u[i] *= d[i] * slope[i];
        d[i] *= g[i];
      }
      cuda::store(gh + r * f + c, h);
      cuda::store(ggate.row(r) + c, u);
      cuda::store(gup.row(r) + c, d);
    });
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Index rows = row_count(in.x);
    const Index d = in.weight.size(0), f = in.weight.size(1);
    const cuda::Scratch h(rows * f * Index{sizeof(T)});
    hidden(in.x, a.activation, h.as<T>());
    const cuda::Matrix rows_of_h{h.data(), std::max<Index>(1, f)};
    if (multiply_few<T>(rows_of_h, row_matrix(in.weight), rows, d, f, nullptr, out.y.data<T>())) {
      return;
    }
    multiply(kType, rows_of_h, transposed(row_matrix(in.weight)), rows, d, f, kType, out.y.raw());
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Index rows = row_count(in.x);
    const Index f = in.x.size(-1) / 2, d = dout.y.size(-1);
    const cuda::Scratch memory(rows * f * Index{sizeof(T)});
    const cuda::Matrix gy = row_matrix(dout.y);
    if (din.x.defined()) {
      multiply(kType, gy, row_matrix(in.weight), rows, f, d, kType, memory.data());
      spread(in.x, memory.as<T>(), a.activation, din.x);
    } else {
      hidden(in.x, a.activation, memory.as<T>());
    }
    if (din.weight.defined()) {
      multiply(kType, transposed(gy), {memory.data(), std::max<Index>(1, f)}, d, f, rows, kAcc,
               din.weight.raw());
    }
  }
};

LS_KERNEL(GluLinear)
    .on(DeviceType::kCuda)
    .reads("x", lies::rows)
    .reads("y", lies::rows_apart)
    .strided_grad("x")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
