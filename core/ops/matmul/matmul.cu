// Products of stacks by cuBLASLt, read where they lie.
#include "core/ops/matmul/matmul.h"

#include "core/backend/cuda/gemm.h"
#include "core/op/op.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

using Op = Matmul;

cuda::Matrix matrix(const TensorView& t, bool transposed) {
  const StackPattern s = *stack_of(t.layout());
  return {t.raw(), s.ld, s.transposed != transposed, s.step};
}
template <class T>
void multiply(const cuda::Matrix& a, const cuda::Matrix& b, Index k, double alpha, TensorView& c) {
  cuda::Product p;
  p.in = p.out = dtype_of_v<T>;
  p.m = c.size(-2);
  p.n = c.size(-1);
  p.k = k;
  p.count = p.m * p.n > 0 ? c.numel() / (p.m * p.n) : 0;
  p.alpha = alpha;
  cuda::gemm(p, a, b, c.raw(), p.n, p.m * p.n);
}
cuda::Matrix flipped(cuda::Matrix m) {
  m.transposed = !m.transposed;
  return m;
}

template <class T>
struct Kernel {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& at) {
    multiply<T>(matrix(in.a, at.trans_a), matrix(in.b, at.trans_b), in.a.size(at.trans_a ? -2 : -1),
                at.alpha, out.c);
  }
  /// d op(a) = alpha dc op(b)^T, d op(b) = alpha op(a)^T dc; stored transposed, the factors change
  /// places.
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& at) {
    const cuda::Matrix gc = matrix(dout.c, false);
    const Index m = dout.c.size(-2), n = dout.c.size(-1);
    if (din.a.defined()) {
      const cuda::Matrix b = matrix(in.b, at.trans_b);
      if (at.trans_a) {
        multiply<T>(b, flipped(gc), n, at.alpha, din.a);
      } else {
        multiply<T>(gc, flipped(b), n, at.alpha, din.a);
      }
    }
    if (din.b.defined()) {
      const cuda::Matrix a = matrix(in.a, at.trans_a);
      if (at.trans_b) {
        multiply<T>(flipped(gc), a, m, at.alpha, din.b);
      } else {
        multiply<T>(flipped(a), gc, m, at.alpha, din.b);
      }
    }
  }
};

LS_KERNEL(Matmul)
    .on(DeviceType::kCuda)
    .reads("a b c", lies::matrices)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
