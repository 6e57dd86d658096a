#pragma once
// Row copies behind gather_rows and scatter_add_rows, each the gradient of the other.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "core/base/parallel_for.h"
#include "core/tensor/rows.h"

namespace ls::ops {

/// y[i] = x[index[i]], zero for index -1. x [N,D] in rows, index and y [...,D] contiguous.
template <class T>
void gather_rows(const TensorView& x, const TensorView& index, TensorView& y) {
  const Rows from(x);
  const std::int64_t* at = index.data<std::int64_t>();
  const Index d = from.cols;
  T* to = y.data<T>();
  parallel_for(index.numel(), row_grain(d, 16384), [&](Index i0, Index i1) {
    for (Index i = i0; i < i1; ++i) {
      if (at[i] < 0) {
        std::fill_n(to + i * d, d, T(0.0f));
      } else {
        std::copy_n(from.row<T>(at[i]), d, to + i * d);
      }
    }
  });
}

/// y[index[i]] += x[i] from zero, in the order of i. x [...,D] in rows, index and y [N,D]
/// contiguous.
template <class T>
void scatter_add_rows(const TensorView& x, const TensorView& index, TensorView& y) {
  using A = acc_t<T>;
  const Rows from(x);
  const std::int64_t* at = index.data<std::int64_t>();
  const Index rows = y.size(0), d = y.size(1);
  T* to = y.data<T>();
  // Threads own target rows; each looks through all indices.
  parallel_for(rows, row_grain(d, 16384), [&](Index r0, Index r1) {
    std::vector<A> wide(std::is_same_v<T, A> ? 0 : static_cast<std::size_t>((r1 - r0) * d));
    A* sum;
    if constexpr (std::is_same_v<T, A>) {
      sum = to + r0 * d;
      std::fill_n(sum, (r1 - r0) * d, A(0));
    } else {
      sum = wide.data();
    }
    for (Index i = 0; i < index.numel(); ++i) {
      if (at[i] >= r0 && at[i] < r1) {
        const T* xp = from.row<T>(i);
        A* s = sum + (at[i] - r0) * d;
        for (Index c = 0; c < d; ++c) {
          s[c] += convert<A>(xp[c]);
        }
      }
    }
    for (std::size_t k = 0; k < wide.size(); ++k) {
      to[r0 * d + static_cast<Index>(k)] = convert<T>(wide[k]);
    }
  });
}

}  // namespace ls::ops
