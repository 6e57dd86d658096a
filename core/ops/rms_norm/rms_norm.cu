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
  __device__ A gate(A v) const { return sigmoid ? act::device_sigmoid(v) : act::device_silu(v); }
  __device__ A gate_slope(A v) const {
    return sigmoid ? act::device_sigmoid(v) * act::device_sigmoid(-v) : act::device_silu_slope(v);
  }
  /// u, and the gate behind the norm, of neighbours from channel c on.
  template <int kWidth>
  __device__ void read(Index r, Index c, A (&u)[kWidth], A (&behind)[kWidth]) const {
    cuda::load(x.row(r) + c, u);
    if (before || after) {
      cuda::load(z.row(r) + c, behind);
    }
    for (int i = 0; i < kWidth; ++i) {
      u[i] *= before ? gate(behind[i]) : A(1);
      behind[i] = after ? gate(behind[i]) : A(1);
    }
  }
  template <int kWidth>
  __device__ void gains(Index c, A (&to)[kWidth]) const {
    if (weight) {
      cuda::load(weight + c, to);
    }
    for (A& g : to) {
      g = weight ? offset + g : A(1);
    }
  }
  __device__ Index group(Index c) const { return groups == 1 ? 0 : c / channels; }

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
    const cuda::RowsTo<T> y(out.y);
    A* const rstd = out.rstd.data<A>();
    cuda::for_each_row<T>(
        call.rows * call.groups, call.channels,
        [=] __device__(Index i, bool writes, auto team, auto width) {
          constexpr int kWidth = decltype(width)::value;
          const Index r = i / call.groups, first = i % call.groups * call.channels;
          A square = 0;
          team.template each<kWidth>(call.channels, [&](Index c) {
            A u[kWidth], behind[kWidth];
            call.read(r, first + c, u, behind);
            for (int j = 0; j < kWidth; ++j) {
              square += u[j] * u[j];
            }
          });
          const A k = A(1) / sqrt(team.sum(square) / static_cast<A>(call.channels) + call.eps);
          if (writes && team.rank() == 0) {
            rstd[i] = k;
          }
          team.template each<kWidth>(writes ? call.channels : 0, [&](Index c) {
            A u[kWidth], behind[kWidth], gain[kWidth];
            call.read(r, first + c, u, behind);
            call.gains(first + c, gain);
            for (int j = 0; j < kWidth; ++j) {
              u[j] *= k * gain[j] * behind[j];
            }
            cuda::store(y.row(r) + first + c, u);
          });
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
      cuda::for_each_row<T>(
          call.rows * call.groups, call.channels,
          [=] __device__(Index i, bool writes, auto team, auto width) {
            constexpr int kWidth = decltype(width)::value;
            const Index r = i / call.groups, first = i % call.groups * call.channels;
            const A k = rstd[i];
            A sum = 0;
            team.template each<kWidth>(call.channels, [&](Index c) {
              A u[kWidth], behind[kWidth], dy[kWidth], gain[kWidth];
              call.read(r, first + c, u, behind);
              cuda::load(gy.row(r) + first + c, dy);
              call.gains(first + c, gain);
              for (int j = 0; j < kWidth; ++j) {
                sum += dy[j] * gain[j] * behind[j] * u[j];
              }
            });
            const A along = k * k * k * team.sum(sum) / static_cast<A>(call.channels);
            team.template each<kWidth>(writes ? call.channels : 0, [&](Index c) {
              A u[kWidth], behind[kWidth], dy[kWidth], gate[kWidth], gain[kWidth];
              call.read(r, first + c, u, behind);
              cuda::load(gy.row(r) + first + c, dy);
              call.gains(first + c, gain);
              for (int j = 0; j < kWidth; ++j) {
                dy[j] *= gain[j];
                gate[j] = dy[j] * u[j] * k;  // the gate's gradient where it stands behind
                dy[j] = k * dy[j] * behind[j] - u[j] * along;
              }
              finish(call, r, first + c, dy, gate, gx, gz);
            });
          });
    }
    if (din.weight.defined()) {
      weight_gradient(call, rstd, gy, din.weight.data<A>());
    }
  }
  /// Writes dx and dz from du and from the gradient of a gate behind the norm.
  template <int kWidth>
  __device__ static void finish(const Call<T>& call, Index r, Index c, A (&du)[kWidth],
                                A (&dgate)[kWidth], const cuda::RowsTo<T>& gx,
                                const cuda::RowsTo<T>& gz) {
    A z[kWidth] = {}, x[kWidth] = {};
    if (call.before || call.after) {
      cuda::load(call.z.row(r) + c, z);
      cuda::load(call.x.row(r) + c, x);
    }
    for (int j = 0; j < kWidth; ++j) {
      dgate[j] = (call.before ? du[j] * x[j] : dgate[j]) * call.gate_slope(z[j]);
      du[j] *= call.before ? call.gate(z[j]) : A(1);
    }
    if (gx) {
      cuda::store(gx.row(r) + c, du);
    }
    if (gz) {
      cuda::store(gz.row(r) + c, dgate);
    }
  }
  static void weight_gradient(const Call<T>& call, const A* rstd, const cuda::RowsIn<T>& gy,
                              A* gweight) {
    cuda::packed_column_sums<1, A>(
        call.rows, call.cols, {{gweight}}, [=] __device__(Index r, Index c, auto width, auto& sum) {
          constexpr int kWidth = decltype(width)::value;
          A u[kWidth], behind[kWidth], dy[kWidth];
          call.read(r, c, u, behind);
          cuda::load(gy.row(r) + c, dy);
          for (int j = 0; j < kWidth; ++j) {
            const Index group = (c + j) / call.channels;
            sum[0][j] = dy[j] * u[j] * behind[j] * rstd[r * call.groups + group];
          }
        });
  }
};

LS_KERNEL(RmsNorm)
    .on(DeviceType::kCuda)
    .reads("x z y", lies::rows)
    .strided_grad("x z")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
