// One team of threads a group of a row, which reads it twice: the second time from cache. The
// gradient of the weight is summed over rows in a pass of its own.
#include "core/ops/rms_norm/rms_norm.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"
#include "core/ops/common/activations.cuh"

namespace ls::ops {
namespace {

using Op = RmsNorm;

/// u = x or x act(z) is normalised in groups of `channels`; the gate may stand behind instead.
template <class T>
struct Call {
  using A = acc_t<T>;
  Call(const Op::In<TensorView>& in, const Op::Attrs& a)
      : x(in.x),
        z(in.z),
        weight(in.weight.defined() ? in.weight.data<A>() : nullptr),
        before(z && !a.norm_before_gate),
        after(z && a.norm_before_gate),
        sigmoid(a.gate_sigmoid),
        offset(static_cast<A>(a.weight_offset)),
        eps(static_cast<A>(a.eps)),
        rows(rows_of(in.x.layout())->count),
        cols(rows_of(in.x.layout())->cols),
        channels(a.group_size > 0 ? a.group_size : cols),
        groups(channels > 0 ? cols / channels : 0) {}
  __device__ A at_x(Index r, Index c) const { return cuda::to_acc<A>(x.row(r)[c]); }
  __device__ A gate(Index r, Index c) const {
    const A v = cuda::to_acc<A>(z.row(r)[c]);
    return sigmoid ? act::device_sigmoid(v) : act::device_silu(v);
  }
  __device__ A gate_slope(Index r, Index c) const {
    const A v = cuda::to_acc<A>(z.row(r)[c]);
    return sigmoid ? act::device_sigmoid(v) * act::device_sigmoid(-v) : act::device_silu_slope(v);
  }
  __device__ A input(Index r, Index c) const {
    return before ? at_x(r, c) * gate(r, c) : at_x(r, c);
  }
  __device__ A gate_behind(Index r, Index c) const { return after ? gate(r, c) : A(1); }
  __device__ A gain(Index c) const { return weight ? offset + weight[c] : A(1); }

  cuda::RowsIn<T> x, z;
  const A* weight;
  bool before, after, sigmoid;
  A offset, eps;
  Index rows, cols, channels, groups;
};

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Call<T> call(in, a);
    T* const y = out.y.data<T>();
    A* const rstd = out.rstd.data<A>();
    cuda::for_each_row(
        call.rows * call.groups, call.channels, [=] __device__(Index i, bool writes, auto team) {
          const Index r = i / call.groups, first = i % call.groups * call.channels;
          const Index end = first + call.channels;
          A square = 0;
          for (Index c = first + team.rank(); c < end; c += team.kSize) {
            const A u = call.input(r, c);
            square += u * u;
          }
          const A k = A(1) / sqrt(team.sum(square) / static_cast<A>(call.channels) + call.eps);
          if (writes && team.rank() == 0) {
            rstd[i] = k;
          }
          for (Index c = first + team.rank(); writes && c < end; c += team.kSize) {
            const A v = call.input(r, c) * k * call.gain(c) * call.gate_behind(r, c);
            y[r * call.cols + c] = cuda::from_acc<T>(v);
          }
        });
  }
  /// y = u rstd gain [gate]: du = rstd (e - u rstd^2 mean(e u)), where e = dy gain [gate].
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Call<T> call(in, a);
    const A* const rstd = out.rstd.data<A>();
    const cuda::RowsIn<T> gy(dout.y);
    const cuda::RowsTo<T> gx(din.x), gz(din.z);
    if (gx || gz) {
      cuda::for_each_row(
          call.rows * call.groups, call.channels, [=] __device__(Index i, bool writes, auto team) {
            const Index r = i / call.groups, first = i % call.groups * call.channels;
            const Index end = first + call.channels;
            const T* const dy = gy.row(r);
            const A k = rstd[i];
            A sum = 0;
            for (Index c = first + team.rank(); c < end; c += team.kSize) {
              sum +=
                  cuda::to_acc<A>(dy[c]) * call.gain(c) * call.gate_behind(r, c) * call.input(r, c);
            }
            const A mean = team.sum(sum) / static_cast<A>(call.channels);
            for (Index c = first + team.rank(); writes && c < end; c += team.kSize) {
              const A u = call.input(r, c), g = cuda::to_acc<A>(dy[c]) * call.gain(c);
              const A du = k * (g * call.gate_behind(r, c) - u * k * k * mean);
              if (gx) {
                gx.row(r)[c] = cuda::from_acc<T>(call.before ? du * call.gate(r, c) : du);
              }
              if (gz) {
                const A dgate = call.before ? du * call.at_x(r, c) : g * u * k;
                gz.row(r)[c] = cuda::from_acc<T>(dgate * call.gate_slope(r, c));
              }
            }
          });
    }
    if (din.weight.defined()) {
      cuda::column_sums<1, A>(call.rows, call.cols, {{din.weight.data<A>()}},
                              [=] __device__(Index r, Index c, A(&sum)[1]) {
                                const A k = rstd[r * call.groups + c / call.channels];
                                sum[0] = cuda::to_acc<A>(gy.row(r)[c]) * call.input(r, c) * k *
                                         call.gate_behind(r, c);
                              });
    }
  }
};

LS_KERNEL(RmsNorm)
    .on(DeviceType::kCuda)
    .reads("x z y", lies::rows)
    .strided_grad("x z")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
