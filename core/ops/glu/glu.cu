// y = act(gate) * up: 16 bytes of each a thread.
#include "core/ops/glu/glu.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"
#include "core/ops/common/activations.cuh"

namespace ls::ops {
namespace {

using Op = Glu;

template <class T>
struct Kernel {
  using A = acc_t<T>;
  /// Gate and up, of one tensor or of two.
  struct Halves {
    explicit Halves(const Op::In<TensorView>& in) {
      const bool whole = in.x.defined();
      const TensorView gate_view = whole ? in.x.slice(-1, 0, in.x.size(-1) / 2) : in.gate;
      const TensorView up_view = whole ? in.x.slice(-1, in.x.size(-1) / 2, in.x.size(-1)) : in.up;
      cols = gate_view.size(-1);
      rows = cols > 0 ? gate_view.numel() / cols : 0;
      gate.stride = whole ? rows_of(in.x.layout())->stride : rows_of(in.gate.layout())->stride;
      up.stride = whole ? gate.stride : rows_of(in.up.layout())->stride;
      gate.base = gate_view.template data<T>();
      up.base = up_view.template data<T>();
    }
    cuda::RowsIn<T> gate, up;
    Index rows = 0, cols = 0;
  };
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Halves halves(in);
    const cuda::RowsIn<T> gate = halves.gate, up = halves.up;
    const cuda::RowsTo<T> y(out.y);
    const Act act = a.activation;
    const auto shape = cuda::RowShape(halves.rows, halves.cols).with(gate).with(up).with(y);
    cuda::for_each<T>(shape, [=] __device__(Index r, Index c, auto width) {
      constexpr int kWidth = decltype(width)::value;
      A g[kWidth], u[kWidth];
      cuda::load(gate.row(r) + c, g);
      cuda::load(up.row(r) + c, u);
      act::device_values(act, g);
      for (int i = 0; i < kWidth; ++i) {
        u[i] *= g[i];
      }
      cuda::store(y.row(r) + c, u);
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Halves halves(in);
    const cuda::RowsIn<T> gate = halves.gate, up = halves.up, gy(dout.y);
    cuda::RowsTo<T> ggate(din.gate), gup(din.up);
    if (din.x.defined()) {
      ggate = cuda::RowsTo<T>(din.x);
      gup = ggate;
      gup.base += halves.cols;
    }
    const Act act = a.activation;
    const auto shape =
        cuda::RowShape(halves.rows, halves.cols).with(gate).with(up).with(gy).with(ggate).with(gup);
    cuda::for_each<T>(shape, [=] __device__(Index r, Index c, auto width) {
      constexpr int kWidth = decltype(width)::value;
      A g[kWidth], slope[kWidth], u[kWidth], dy[kWidth];
      cuda::load(gate.row(r) + c, g);
      cuda::load(up.row(r) + c, u);
      cuda::load(gy.row(r) + c, dy);
      act::device_values(act, g, slope);
      for (int i = 0; i < kWidth; ++i) {
        u[i] *= dy[i] * slope[i];
        dy[i] *= g[i];
      }
      if (ggate) {
        cuda::store(ggate.row(r) + c, u);
      }
      if (gup) {
        cuda::store(gup.row(r) + c, dy);
      }
    });
  }
};

LS_KERNEL(Glu)
    .on(DeviceType::kCuda)
    .reads("x gate up y", lies::rows)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
