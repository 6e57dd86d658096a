// y = a b element by element, da = dy b, db = dy a. A thread owns rows.
#include "core/ops/mul/mul.h"

#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

template <class T>
void multiply(const TensorView& a, const TensorView& b, TensorView& y) {
  using A = acc_t<T>;
  const Rows left(a), right(b);
  const Index d = left.cols;
  T* to = y.data<T>();
  parallel_for(left.count, row_grain(d, 16384), [&](Index r0, Index r1) {
    for (Index r = r0; r < r1; ++r) {
      const T* ap = left.row<T>(r);
      const T* bp = right.row<T>(r);
      for (Index c = 0; c < d; ++c) {
        to[r * d + c] = convert<T>(convert<A>(ap[c]) * convert<A>(bp[c]));
      }
    }
  });
}

template <class T>
struct Kernel {
  static void forward(const Mul::In<TensorView>& in, Mul::Out<TensorView>& out, const Mul::Attrs&) {
    multiply<T>(in.a, in.b, out.y);
  }
  static void backward(const Mul::In<TensorView>& in, const Mul::Out<TensorView>&,
                       const Mul::Out<TensorView>& dout, Mul::In<TensorView>& din,
                       const Mul::Attrs&) {
    if (din.a.defined()) {
      multiply<T>(dout.y, in.b, din.a);
    }
    if (din.b.defined()) {
      multiply<T>(dout.y, in.a, din.b);
    }
  }
};

LS_KERNEL(Mul).reads("a b y", lies::rows).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
