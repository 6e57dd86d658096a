#pragma once
// Values that index something: looked at by every kernel and reference that follows them.
#include <optional>
#include <string>

#include "core/base/error.h"
#include "core/tensor/tensor_view.h"

namespace ls::ops {

/// Contiguous indices must lie in lo .. hi-1, or be `also`.
/// @throws Error(Shape): "embedding: id 9 at position 3 is outside 0 .. 7"
inline void check_indices(const char* op, const char* what, const TensorView& index, Index lo,
                          Index hi, std::optional<Index> also = std::nullopt) {
  const std::int64_t* const at = index.data<std::int64_t>();
  for (Index i = 0; i < index.numel(); ++i) {
    LS_CHECK((at[i] >= lo && at[i] < hi) || (also && at[i] == *also), kShape,
             "{}: {} {} at position {} is outside {} .. {}{}", op, what, at[i], i, lo, hi - 1,
             also ? " and is not ignore_index " + std::to_string(*also) : "");
  }
}

}  // namespace ls::ops
