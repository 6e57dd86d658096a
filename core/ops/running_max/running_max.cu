// Elementwise: the maximum of two logs and the factors that bring what they stand for to it.
#include "core/ops/running_max/running_max.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"

namespace ls::ops {
namespace {

using Op = RunningMax;

template <class T>
struct Kernel {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const RowPattern rows = *rows_of(in.g.layout());
    const cuda::RowsIn<T> g(in.g), a(in.a), b(in.b);
    const cuda::RowsTo<T> m(out.m), earlier(out.earlier), later(out.later);
    const auto shape = cuda::RowShape(rows.count, rows.cols)
                           .with(g)
                           .with(a)
                           .with(b)
                           .with(m)
                           .with(earlier)
                           .with(later);
    cuda::for_each<T>(shape, [=] __device__(Index r, Index c, auto width) {
      constexpr int kWidth = decltype(width)::value;
      T u[kWidth], x[kWidth], y[kWidth], top[kWidth];
      cuda::load(g.row(r) + c, u);
      cuda::load(a.row(r) + c, x);
      cuda::load(b.row(r) + c, y);
      for (int i = 0; i < kWidth; ++i) {
        top[i] = u[i] + x[i] > y[i] ? u[i] + x[i] : y[i];
        x[i] = exp(u[i] + (x[i] - top[i]));
        y[i] = exp(y[i] - top[i]);
      }
      cuda::store(m.row(r) + c, top);
      cuda::store(earlier.row(r) + c, x);
      cuda::store(later.row(r) + c, y);
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const RowPattern rows = *rows_of(in.g.layout());
    const cuda::RowsIn<T> g(in.g), a(in.a), b(in.b), earlier(out.earlier), later(out.later);
    const cuda::RowsIn<T> gm(dout.m), ge(dout.earlier), gl(dout.later);
    const cuda::RowsTo<T> dg(din.g), da(din.a), db(din.b);
    const auto shape = cuda::RowShape(rows.count, rows.cols);
    cuda::for_each<T>(shape, [=] __device__(Index r, Index c, auto width) {
      constexpr int kWidth = decltype(width)::value;
      for (int i = 0; i < kWidth; ++i) {
        const Index at = c + i;
        const bool first = g.row(r)[at] + a.row(r)[at] > b.row(r)[at];
        const T factor = first ? later.row(r)[at] * (gl ? gl.row(r)[at] : T(0))
                               : earlier.row(r)[at] * (ge ? ge.row(r)[at] : T(0));
        const T rest = (gm ? gm.row(r)[at] : T(0)) - factor;
        if (dg) {
          dg.row(r)[at] = first ? rest : factor;
        }
        if (da) {
          da.row(r)[at] = first ? rest : factor;
        }
        if (db) {
          db.row(r)[at] = first ? factor : rest;
        }
      }
    });
  }
};

LS_KERNEL(RunningMax).on(DeviceType::kCuda).kernel<Kernel, double, float>();

}  // namespace
}  // namespace ls::ops
