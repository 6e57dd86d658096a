// Elementwise; gradients of a_log and dt_bias are summed over tokens in parts.
#include "core/ops/mamba_gate/mamba_gate.h"

#include "core/backend/cuda/device/groups.cuh"
#include "core/op/op.h"
#include "core/ops/common/activations.cuh"

namespace ls::ops {
namespace {

using Op = MambaGate;

/// g of one element and its derivatives by z = x + dt_bias and by a_log.
template <class A>
struct Gate {
  __device__ Gate(A z, A a_log, A low) {
    const A rate = exp(a_log);
    if (low < A(0)) {
      const A s = act::device_sigmoid(rate * z);
      g = low * s;
      by_z = low * s * act::device_sigmoid(-rate * z) * rate;
      by_a_log = by_z * z;
    } else {
      g = by_a_log = -rate * act::device_softplus(z);
      by_z = -rate * act::device_sigmoid(z);
    }
  }
  A g, by_z, by_a_log;
};

template <class T>
struct Call {
  using A = acc_t<T>;
  Call(const Op::In<TensorView>& in, const Op::Attrs& a)
      : x(in.x),
        a_log(in.a_log.data<A>()),
        bias(in.dt_bias.defined() ? in.dt_bias.data<A>() : nullptr),
        low(static_cast<A>(a.lower_bound)),
        rows(rows_of(in.x.layout())->count),
        channels(in.x.size(-1)),
        of_head(channels / in.a_log.size(0)) {}
  __device__ Gate<A> gate(Index r, Index c) const {
    const A z = cuda::to_acc<A>(x.row(r)[c]) + (bias ? bias[c] : A(0));
    return {z, a_log[c / of_head], low};
  }
  cuda::RowsIn<T> x;
  const A *a_log, *bias;
  A low;
  Index rows, channels, of_head;
};

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Call<T> call(in, a);
    A* const g = out.g.data<A>();
    cuda::for_each<1>(
        cuda::RowShape(call.rows, call.channels).apart(),
        [=] __device__(Index r, Index c, auto) { g[r * call.channels + c] = call.gate(r, c).g; });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Call<T> call(in, a);
    const cuda::RowsIn<A> gg(dout.g);
    const cuda::RowsTo<T> gx(din.x);
    if (gx) {
      cuda::for_each<1>(cuda::RowShape(call.rows, call.channels).apart(),
                        [=] __device__(Index r, Index c, auto) {
                          gx.row(r)[c] = cuda::from_acc<T>(gg.row(r)[c] * call.gate(r, c).by_z);
                        });
    }
    if (!din.a_log.defined() && !din.dt_bias.defined()) {
      return;
    }
    const cuda::Scratch memory(call.channels * Index{sizeof(A)});
    A* const gbias = din.dt_bias.defined() ? din.dt_bias.data<A>() : nullptr;
    A* const grate = din.a_log.defined() ? memory.as<A>() : nullptr;
    cuda::column_sums<2, A>(call.rows, call.channels, {{gbias, grate}},
                            [=] __device__(Index r, Index c, A(&sum)[2]) {
                              const Gate<A> gate = call.gate(r, c);
                              sum[0] = gg.row(r)[c] * gate.by_z;
                              sum[1] = gg.row(r)[c] * gate.by_a_log;
                            });
    if (grate) {
      cuda::sum_groups<A>(grate, in.a_log.size(0), call.of_head, din.a_log.data<A>());
    }
  }
};

LS_KERNEL(MambaGate)
    .on(DeviceType::kCuda)
    .reads("x g", lies::rows)
    .strided_grad("x")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
