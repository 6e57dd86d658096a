#pragma once
// Elementwise loops over operands of any strides and one shape.
#include "core/backend/cuda/device/convert.cuh"
#include "core/backend/cuda/launch.h"
#include "core/tensor/tensor_view.h"

namespace ls::cuda {

/// Where the elements of N operands lie. Axes that lie one behind the other in all are one.
template <int N>
struct Strided {
  Index extent[kMaxRank];  ///< innermost first
  Index step[kMaxRank][N];
  int rank = 0;
  Index count = 1;

  Strided(const Shape& shape, const Shape* const (&strides)[N]) {
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      count *= shape[axis];
      if (shape[axis] != 1) {
        add(shape[axis], axis, strides);
      }
    }
    if (rank == 0) {
      extent[0] = 1;
      for (int k = 0; k < N; ++k) {
        step[0][k] = 1;
      }
      rank = 1;
    }
  }
  /// All elements of all operands without gaps.
  bool dense() const {
    bool all = rank == 1;
    for (int k = 0; k < N; ++k) {
      all = all && step[0][k] == 1;
    }
    return all;
  }
  __device__ void offsets(Index i, Index (&at)[N]) const {
    for (int k = 0; k < N; ++k) {
      at[k] = 0;
    }
    for (int a = 0; a < rank; ++a) {
      const Index j = a + 1 < rank ? i % extent[a] : i;
      i /= extent[a];
      for (int k = 0; k < N; ++k) {
        at[k] += j * step[a][k];
      }
    }
  }

 private:
  void add(Index n, int axis, const Shape* const (&strides)[N]) {
    bool goes_on = rank > 0;
    for (int k = 0; k < N && goes_on; ++k) {
      goes_on = (*strides[k])[axis] == step[rank - 1][k] * extent[rank - 1];
    }
    if (goes_on) {
      extent[rank - 1] *= n;
      return;
    }
    extent[rank] = n;
    for (int k = 0; k < N; ++k) {
      step[rank][k] = (*strides[k])[axis];
    }
    ++rank;
  }
};

template <int N, class F>
__global__ void __launch_bounds__(256) strided_kernel(Strided<N> where, F f) {
  const Index all = Index{gridDim.x} * blockDim.x;
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < where.count; i += all) {
    Index at[N];
    where.offsets(i, at);
    f(at);
  }
}

/// f(offsets of the operands) for each element.
template <int N, class F>
void for_each_strided(const Strided<N>& where, F f) {
  const Index most = Index{queue().processors} * 16;
  launch(&strided_kernel<N, F>,
         dim3(static_cast<unsigned>(std::min(most, blocks_for(where.count, 256)))), dim3(256), 0,
         where, f);
}

}  // namespace ls::cuda
