#pragma once
// Indices of gather_rows and scatter_add_rows.
#include <vector>

#include "core/tensor/tensor.h"

namespace ls::ops {

/// @throws Error(Shape) on an index outside -1 .. rows-1
inline void check_row_indices(const char* op, const Tensor& index, Index rows) {
  const std::vector<std::int64_t> at = index.to_vector<std::int64_t>();
  for (std::size_t i = 0; i < at.size(); ++i) {
    LS_CHECK(at[i] >= -1 && at[i] < rows, kShape, "{}: index {} at place {} is outside -1 .. {}",
             op, at[i], i, rows - 1);
  }
}

}  // namespace ls::ops
