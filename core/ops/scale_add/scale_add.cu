// Elementwise; the gradient of factor sums the channels of a group, that of gain also all rows.
#include "core/ops/scale_add/scale_add.h"

#include "core/backend/cuda/device/groups.cuh"
#include "core/op/op.h"

namespace ls::ops {
namespace {

using Op = ScaleAdd;

template <class T>
struct Call {
  using A = acc_t<T>;
  explicit Call(const Op::In<TensorView>& in)
      : x(in.x),
        factor(in.factor),
        gain(in.gain.defined() ? in.gain.data<A>() : nullptr),
        rows(rows_of(in.x.layout())->count),
        channels(in.x.size(-1)),
        of_factor(in.factor.defined() ? channels / in.factor.size(-1) : 1),
        of_gain(in.gain.defined() ? channels / in.gain.size(0) : 1) {}
  __device__ A at(Index r, Index c) const {
    return (factor ? factor.row(r)[c / of_factor] : A(0)) + (gain ? gain[c / of_gain] : A(0));
  }
  cuda::RowsIn<T> x;
  cuda::RowsIn<A> factor;
  const A* gain;
  Index rows, channels, of_factor, of_gain;
};

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const Call<T> call(in);
    const cuda::RowsIn<T> x = call.x, base(in.base);
    const cuda::RowsTo<T> y(out.y);
    const auto shape = cuda::RowShape(call.rows, call.channels).with(x).with(base).with(y).apart();
    cuda::for_each<T>(shape, [=] __device__(Index r, Index c, auto width) {
      constexpr int kWidth = decltype(width)::value;
      A u[kWidth], b[kWidth] = {};
      cuda::load(x.row(r) + c, u);
      if (base) {
        cuda::load(base.row(r) + c, b);
      }
      for (int i = 0; i < kWidth; ++i) {
        b[i] += u[i] * call.at(r, c + i);
      }
      cuda::store(y.row(r) + c, b);
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const Call<T> call(in);
    const cuda::RowsIn<T> gy(dout.y);
    const cuda::RowsTo<T> gx(din.x), gbase(din.base);
    if (gx || gbase) {
      const auto shape =
          cuda::RowShape(call.rows, call.channels).with(gy).with(gx).with(gbase).apart();
      cuda::for_each<T>(shape, [=] __device__(Index r, Index c, auto width) {
        constexpr int kWidth = decltype(width)::value;
        A g[kWidth];
        cuda::load(gy.row(r) + c, g);
        if (gbase) {
          cuda::store(gbase.row(r) + c, g);
        }
        for (int i = 0; gx && i < kWidth; ++i) {
          g[i] *= call.at(r, c + i);
        }
        if (gx) {
          cuda::store(gx.row(r) + c, g);
        }
      });
    }
    if (din.factor.defined()) {
      factor_gradient(call, gy, din.factor);
    }
    if (din.gain.defined()) {
      const cuda::Scratch memory(call.channels * Index{sizeof(A)});
      cuda::column_sums<1, A>(call.rows, call.channels, {{memory.as<A>()}},
                              [=] __device__(Index r, Index c, A(&sum)[1]) {
                                sum[0] = cuda::to_acc<A>(gy.row(r)[c]) *
                                         cuda::to_acc<A>(call.x.row(r)[c]);
                              });
      cuda::sum_groups<A>(memory.as<A>(), din.gain.size(0), call.of_gain, din.gain.data<A>());
    }
  }
  static void factor_gradient(const Call<T>& call, const cuda::RowsIn<T>& gy, TensorView& result) {
    A* const gfactor = result.data<A>();
    const Index groups = result.size(-1), n = call.of_factor;
    cuda::for_each_row<1>(
        call.rows * groups, n, [=] __device__(Index i, bool writes, auto team, auto) {
          const Index r = i / groups, first = i % groups * n;
          A sum = 0;
          for (Index c = first + team.rank(); c < first + n; c += team.kSize) {
            sum += cuda::to_acc<A>(gy.row(r)[c]) * cuda::to_acc<A>(call.x.row(r)[c]);
          }
          sum = team.sum(sum);
          if (writes && team.rank() == 0) {
            gfactor[i] = sum;
          }
        });
  }
};

LS_KERNEL(ScaleAdd)
    .on(DeviceType::kCuda)
    .reads("x factor base y", lies::rows)
    .strided_grad("x base")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
