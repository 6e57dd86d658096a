// y [rows, d-1] is x [rows, d] without its last channel, divided by that channel plus eps. A thread
// owns rows. With inv = 1 / (x_last + eps): dx = dy inv, dx_last = -inv^2 sum(dy x).
#include "core/ops/row_normalize/row_normalize.h"

#include "core/base/parallel_for.h"
#include "core/op/declare.h"

namespace ls::ops {
namespace {

template <class T>
struct Kernel {
  using Op = RowNormalize;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const TensorView& x = in.x;
    const Index d = x.size(-1), rows = x.numel() / d;
    const T* xp = x.data<T>();
    T* yp = out.y.data<T>();
    parallel_for(rows, 256, [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        const T inv = T(1) / (xp[r * d + d - 1] + static_cast<T>(a.eps));
        for (Index i = 0; i < d - 1; ++i) {
          yp[r * (d - 1) + i] = xp[r * d + i] * inv;
        }
      }
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const TensorView& x = in.x;
    const Index d = x.size(-1), rows = x.numel() / d;
    const T* xp = x.data<T>();
    const T* gp = dout.y.data<T>();
    T* dx = din.x.data<T>();
    parallel_for(rows, 256, [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        const T inv = T(1) / (xp[r * d + d - 1] + static_cast<T>(a.eps));
        T dot = 0;
        for (Index i = 0; i < d - 1; ++i) {
          const T g = gp[r * (d - 1) + i];
          dx[r * d + i] = g * inv;
          dot += g * xp[r * d + i];
        }
        dx[r * d + d - 1] = -dot * inv * inv;
      }
    });
  }
};

LS_KERNEL(RowNormalize).kernel<Kernel, double, float>();

}  // namespace
}  // namespace ls::ops
