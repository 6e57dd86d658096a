// c = alpha op(a) op(b) for a stack of matrices, and da = alpha dc op(b)^T, db = alpha op(a)^T dc
// (or their transposes), each one call of core/backend/cpu/gemm.h, which shares the stack out.
// There are no buffers: transposed and sliced views are read in place.
#include <algorithm>

#include "core/backend/cpu/gemm.h"
#include "core/op/declare.h"
#include "core/ops/matmul/matmul.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

/// A stack of matrices as the matrix library reads it.
template <class T>
struct Stack : StackPattern {
  explicit Stack(const TensorView& t) : StackPattern(*stack_of(t.layout())), data(t.data<T>()) {}
  const T* data;
};

template <class T>
void multiply(bool tx, const Stack<T>& x, bool ty, const Stack<T>& y, Index m, Index n, Index k,
              double alpha, TensorView& c) {
  const Index batch = m * n > 0 ? c.numel() / (m * n) : 0;
  if (batch == 0) {
    return;
  }
  gemm_batched(dtype_of_v<T>, dtype_of_v<T>, tx != x.transposed, ty != y.transposed, batch, m, n, k,
               alpha, x.data, x.ld, x.step, y.data, y.ld, y.step, 0.0, c.data<T>(), n, m * n);
}

template <class T>
void forward(const Matmul::In<TensorView>& in, Matmul::Out<TensorView>& out,
             const Matmul::Attrs& at) {
  const Stack<T> a(in.a), b(in.b);
  multiply(at.trans_a, a, at.trans_b, b, out.c.size(-2), out.c.size(-1),
           in.a.size(at.trans_a ? -2 : -1), at.alpha, out.c);
}

template <class T>
void backward(const Matmul::In<TensorView>& in, const Matmul::Out<TensorView>&,
              const Matmul::Out<TensorView>& dout, Matmul::In<TensorView>& din,
              const Matmul::Attrs& at) {
  const Stack<T> a(in.a), b(in.b), dc(dout.c);
  const Index m = dout.c.size(-2), n = dout.c.size(-1), k = in.a.size(at.trans_a ? -2 : -1);
  if (din.a.defined()) {
    if (at.trans_a) {
      multiply(at.trans_b, b, true, dc, k, m, n, at.alpha, din.a);
    } else {
      multiply(false, dc, !at.trans_b, b, m, k, n, at.alpha, din.a);
    }
  }
  if (din.b.defined()) {
    if (at.trans_b) {
      multiply(true, dc, at.trans_a, a, n, k, m, at.alpha, din.b);
    } else {
      multiply(!at.trans_a, a, false, dc, k, n, m, at.alpha, din.b);
    }
  }
}

LS_KERNEL(Matmul).reads("a b c", lies::matrices).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
