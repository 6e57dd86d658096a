// y = x W^T + b of x [rows,I], W [O,I]; dx = dy W, dW = dy^T x, db the sum of dy over rows. The
// products are core/backend/cpu/gemm.h's, which shares them out; x and dy are read where they are
// if their rows do not overlap. Of the bias, a thread owns rows of y forward and columns of dy
// backward, whose rows are summed in order.
#include "core/backend/cpu/gemm.h"
#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/linear/linear.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

template <class T>
void forward(const Linear::In<TensorView>& in, Linear::Out<TensorView>& out, const Linear::Attrs&) {
  const Rows x(in.x);
  const Index o = in.weight.size(0), i = in.weight.size(1),
              rows = i > 0 ? x.count : out.y.numel() / std::max<Index>(1, o);
  T* y = out.y.data<T>();
  gemm<T>(false, true, rows, o, i, 1.0, x.row<T>(0), std::max<Index>(1, x.stride),
          in.weight.data<T>(), std::max<Index>(1, i), 0.0, y, std::max<Index>(1, o));
  if (in.bias.defined()) {
    using A = acc_t<T>;
    const A* b = in.bias.data<A>();
    parallel_for(rows, row_grain(o, 16384), [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        for (Index c = 0; c < o; ++c) {
          y[r * o + c] = convert<T>(convert<A>(y[r * o + c]) + b[c]);
        }
      }
    });
  }
}

template <class T>
void backward(const Linear::In<TensorView>& in, const Linear::Out<TensorView>&,
              const Linear::Out<TensorView>& dout, Linear::In<TensorView>& din,
              const Linear::Attrs&) {
  using A = acc_t<T>;
  const Rows x(in.x), g(dout.y);
  const Index o = in.weight.size(0), i = in.weight.size(1), rows = o > 0 ? g.count : x.count;
  if (din.x.defined()) {
    gemm<T>(false, false, rows, i, o, 1.0, g.row<T>(0), g.stride, in.weight.data<T>(), i, 0.0,
            din.x.data<T>(), i);
  }
  if (din.weight.defined()) {
    gemm<T, A>(true, false, o, i, rows, 1.0, g.row<T>(0), g.stride, x.row<T>(0), x.stride,
               din.weight.adds() ? 1.0 : 0.0, din.weight.data<A>(), i);
  }
  if (din.bias.defined()) {
    A* db = din.bias.data<A>();
    parallel_for(o, 64, [&](Index c0, Index c1) {
      if (!din.bias.adds()) {
        std::fill(db + c0, db + c1, A(0));
      }
      for (Index r = 0; r < rows; ++r) {
        const T* gp = g.row<T>(r);
        for (Index c = c0; c < c1; ++c) {
          db[c] += convert<A>(gp[c]);
        }
      }
    });
  }
}

LS_KERNEL(Linear)
    .reads("x y", lies::rows_apart)
    .adds_grad("weight bias")
    .types<float, bf16>([]<class T>() { return std::pair(&forward<T>, &backward<T>); });

}  // namespace
}  // namespace ls::ops
