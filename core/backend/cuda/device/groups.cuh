#pragma once
// Sums of neighbours.
#include "core/backend/cuda/device/rows.cuh"

namespace ls::cuda {

/// out[g] = sum of `size` neighbours of `from`, in their order.
template <class A>
void sum_groups(const A* from, Index groups, Index size, A* out) {
  for_each<1>(RowShape(1, groups), [=] __device__(Index, Index g, auto) {
    A sum = 0;
    for (Index i = 0; i < size; ++i) {
      sum += from[g * size + i];
    }
    out[g] = sum;
  });
}

}  // namespace ls::cuda
