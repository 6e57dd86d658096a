// c = alpha op(a) op(b) for a stack of matrices, and da = alpha dc op(b)^T, db = alpha op(a)^T dc
// (or their transposes), each one call of core/backend/cpu/gemm.h, which shares the stack out.
// There are no buffers: transposed and sliced views are read in place, others are copied.
#include <algorithm>

#include "core/backend/cpu/gemm.h"
#include "core/ops/matmul/matmul.h"

namespace ls::ops {
namespace {

/// A stack of matrices as the matrix library reads it: `transposed` tells that the stored matrix is
/// the transpose of the tensor's.
template <class T>
struct Stack {
  explicit Stack(const Tensor& t) : tensor(t) {
    if (!describe()) {
      tensor = t.contiguous();
      describe();
    }
    data = std::as_const(tensor).template data<T>();
  }
  bool describe() {
    const int r = tensor.rank();
    const Index rows = tensor.size(-2), cols = tensor.size(-1);
    const auto fits = [](Index step, Index unit, Index n, Index m) {  // n rows of m elements
      return (unit == 1 || m <= 1) && (step >= m || n <= 1);
    };
    transposed = false;
    if (fits(tensor.stride(-2), tensor.stride(-1), rows, cols)) {
      ld = rows <= 1 ? cols : tensor.stride(-2);
    } else if (fits(tensor.stride(-1), tensor.stride(-2), cols, rows)) {
      transposed = true;
      ld = cols <= 1 ? rows : tensor.stride(-1);
    } else {
      return false;
    }
    ld = std::max<Index>(1, ld);
    step = 0;
    Index next = -1;
    for (int axis = r - 3; axis >= 0; --axis) {
      if (tensor.size(axis) == 1) {
        continue;
      }
      if (next < 0) {
        step = tensor.stride(axis);
      } else if (tensor.stride(axis) != next) {
        return false;
      }
      next = tensor.stride(axis) * tensor.size(axis);
    }
    return true;
  }

  Tensor tensor;
  const T* data = nullptr;
  Index ld = 1, step = 0;
  bool transposed = false;
};

template <class T>
void multiply(bool tx, const Stack<T>& x, bool ty, const Stack<T>& y, Index m, Index n, Index k,
              double alpha, Tensor& c) {
  const Index batch = m * n > 0 ? c.numel() / (m * n) : 0;
  if (batch == 0) {
    return;
  }
  gemm_batched(dtype_of_v<T>, dtype_of_v<T>, tx != x.transposed, ty != y.transposed, batch, m, n, k,
               alpha, x.data, x.ld, x.step, y.data, y.ld, y.step, 0.0, c.data<T>(), n, m * n);
}

template <class T>
void forward(const Matmul::In<Tensor>& in, Matmul::Out<Tensor>& out, const Matmul::Attrs& at) {
  const Stack<T> a(in.a), b(in.b);
  multiply(at.trans_a, a, at.trans_b, b, out.c.size(-2), out.c.size(-1),
           in.a.size(at.trans_a ? -2 : -1), at.alpha, out.c);
}

template <class T>
void backward(const Matmul::In<Tensor>& in, const Matmul::Out<Tensor>&,
              const Matmul::Out<Tensor>& dout, Matmul::In<Tensor>& din, const Matmul::Attrs& at) {
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

LS_KERNEL(Matmul).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
