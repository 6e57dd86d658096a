#pragma once
// A few rows times a weight [O,I], as decoding has them: bound by reading the weight once. One warp
// an output, 16 bytes a lane at once.
#include "core/ops/common/products.cuh"

namespace ls::ops {

template <class T, int kRows>
__global__ void __launch_bounds__(256)
    few_rows_kernel(cuda::RowsIn<T> x, cuda::RowsIn<T> weight, const acc_t<T>* bias, Index outputs,
                    int inputs, T* y) {
  using A = acc_t<T>;
  constexpr int kWidth = cuda::kPack<T>;
  const Index o = Index{blockIdx.x} * 8 + threadIdx.x / 32;
  if (o >= outputs) {
    return;
  }
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const T* const row = weight.row(o);
  A sum[kRows] = {};
#pragma unroll 4
  for (int c = lane * kWidth; c < inputs; c += 32 * kWidth) {
    A w[kWidth];
    cuda::load(row + c, w);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      A v[kWidth];
      cuda::load(x.row(r) + c, v);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        sum[r] += w[i] * v[i];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const A all = cuda::Team<32>::sum(sum[r]);
    if (lane == 0) {
      y[r * outputs + o] = cuda::from_acc<T>(bias ? all + bias[o] : all);
    }
  }
}

/// y [rows,O] = x [rows,I] weight^T + bias (or null), where rows are at most four and I falls into
/// packs; false where not.
template <class T>
bool multiply_few(const cuda::Matrix& x, const cuda::Matrix& weight, Index rows, Index outputs,
                  Index inputs, const acc_t<T>* bias, T* y) {
  constexpr Index kMost = Index{1} << 30;
  if constexpr (!std::is_same_v<T, double>) {
    if (rows >= 1 && rows <= 4 && inputs > 0 && inputs % cuda::kPack<T> == 0 && inputs <= kMost) {
      const auto run = [&](auto kernel) {
        cuda::launch(kernel, dim3(static_cast<unsigned>(cuda::blocks_for(outputs, 8))), dim3(256),
                     0, cuda::RowsIn<T>(static_cast<const T*>(x.data), x.ld),
                     cuda::RowsIn<T>(static_cast<const T*>(weight.data), weight.ld), bias, outputs,
                     static_cast<int>(inputs), y);
      };
      switch (rows) {
        case 1:
          run(&few_rows_kernel<T, 1>);
          break;
        case 2:
          run(&few_rows_kernel<T, 2>);
          break;
        case 3:
          run(&few_rows_kernel<T, 3>);
          break;
        default:
          run(&few_rows_kernel<T, 4>);
      }
      return true;
    }
  }
  return false;
}

}  // namespace ls::ops
