// Three products by cuBLASLt, of few rows or few outputs by kernels of our own; the bias of the
// library's is added, and its gradient summed, in passes of their own.
#include "core/ops/linear/linear.h"

#include "core/op/op.h"
#include "core/ops/common/few_outputs.cuh"
#include "core/ops/common/few_rows.cuh"

namespace ls::ops {
namespace {

using Op = Linear;

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static constexpr DType kType = dtype_of_v<T>, kAcc = dtype_of_v<A>;

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const Index rows = row_count(in.x);
    const Index outputs = in.weight.size(0), inputs = in.weight.size(1);
    const A* const bias = in.bias.defined() ? in.bias.data<A>() : nullptr;
    if (multiply_few<T>(row_matrix(in.x), row_matrix(in.weight), rows, outputs, inputs, bias,
                        out.y.data<T>())) {
      return;
    }
    if (FewOutputs<T>::serves(rows, outputs, inputs)) {
      FewOutputs<T>::values(row_matrix(in.x), row_matrix(in.weight), bias, rows, outputs, inputs,
                            out.y.data<T>());
      return;
    }
    if (!bias) {
      multiply(kType, row_matrix(in.x), transposed(row_matrix(in.weight)), rows, outputs, inputs,
               kType, out.y.raw());
      return;
    }
    // The sum is rounded once, with its bias.
    const bool wide = kType != kAcc;
    const cuda::Scratch memory(wide ? rows * outputs * Index{sizeof(A)} : 0);
    A* const sums = wide ? memory.as<A>() : static_cast<A*>(out.y.raw());
    multiply(kType, row_matrix(in.x), transposed(row_matrix(in.weight)), rows, outputs, inputs,
             kAcc, sums);
    add_bias(sums, bias, rows, outputs, out.y.data<T>());
  }
  static void add_bias(const A* sums, const A* bias, Index rows, Index outputs, T* y) {
    const auto shape = cuda::RowShape(rows, outputs).with(cuda::RowsIn<T>(y, outputs)).apart();
    cuda::for_each<T>(shape, [=] __device__(Index r, Index c, auto width) {
      constexpr int kWidth = decltype(width)::value;
      A to[kWidth], more[kWidth];
      cuda::load(sums + r * outputs + c, to);
      cuda::load(bias + c, more);
      for (int i = 0; i < kWidth; ++i) {
        to[i] += more[i];
      }
      cuda::store(y + r * outputs + c, to);
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const Index rows = row_count(dout.y), outputs = dout.y.size(-1);
    const Index inputs = in.weight.size(1);
    const cuda::Matrix gy = row_matrix(dout.y), x = row_matrix(in.x),
                       weight = row_matrix(in.weight);
    const bool few = FewOutputs<T>::serves(rows, outputs, inputs);
    if (din.x.defined() && few) {
      FewOutputs<T>::of_rows(gy, weight, rows, outputs, inputs, din.x.adds(), din.x.data<T>());
    } else if (din.x.defined()) {
      multiply(kType, gy, weight, rows, inputs, outputs, kType, din.x.raw(), din.x.adds() ? 1 : 0);
    }
    if (din.weight.defined() && few) {
      FewOutputs<T>::of_weight(gy, x, rows, outputs, inputs, din.weight.adds(),
                               din.weight.data<A>());
    } else if (din.weight.defined()) {
      multiply(kType, transposed(gy), x, outputs, inputs, rows, kAcc, din.weight.raw(),
               din.weight.adds() ? 1 : 0);
    }
    if (din.bias.defined()) {
      const cuda::RowsIn<T> from(dout.y);
      cuda::packed_column_sums<T, 1, A>(rows, outputs, {{din.bias.data<A>()}},
                                        [=] __device__(Index r, Index c, auto, auto& sum) {
                                          cuda::load(from.row(r) + c, sum[0]);
                                        });
    }
  }
};

LS_KERNEL(Linear)
    .on(DeviceType::kCuda)
    .reads("x y", lies::rows_apart)
    .adds_grad("x weight")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
