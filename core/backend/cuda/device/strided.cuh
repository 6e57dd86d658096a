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
  /// `n` neighbours lie one behind the other everywhere, and packs of so many a whole number of
  /// packs apart.
  bool packs(Index n) const {
    bool all = extent[0] % n == 0;
    for (int a = 0; a < rank; ++a) {
      for (int k = 0; k < N; ++k) {
        all = all && (a == 0 ? step[0][k] == 1 : step[a][k] % n == 0);
      }
    }
    return all;
  }
  /// The same by packs: extents and offsets count these.
  Strided in_packs(Index n) const {
    Strided p = *this;
    p.count /= n;
    p.extent[0] /= n;
    for (int a = 1; a < rank; ++a) {
      for (int k = 0; k < N; ++k) {
        p.step[a][k] /= n;
      }
    }
    return p;
  }
  /// Of element i. Int holds the number of all elements.
  template <class Int>
  __device__ void offsets(Int i, Index (&at)[N]) const {
    for (int k = 0; k < N; ++k) {
      at[k] = 0;
    }
    for (int a = 0; a < rank; ++a) {
      const Int n = static_cast<Int>(extent[a]);
      const Int j = a + 1 < rank ? i % n : i;
      i = a + 1 < rank ? i / n : 0;
      for (int k = 0; k < N; ++k) {
        at[k] += static_cast<Index>(j) * step[a][k];
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
    if (where.count <= 0xffffffff) {
      where.offsets(static_cast<unsigned>(i), at);
    } else {
      where.offsets(i, at);
    }
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
