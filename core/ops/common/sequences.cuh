#pragma once
// Which sequence a token is in, on a GPU: a batch row, or a packed document of `offsets`.
#include "core/tensor/tensor_view.h"

namespace ls::ops::common {

struct DeviceSequences {
  const std::int64_t* offsets = nullptr;  ///< [count + 1], or null: rows of `tokens`
  Index count = 0, tokens = 0;

  DeviceSequences(Index batch, Index length, const TensorView& at)
      : offsets(at.defined() ? at.data<std::int64_t>() : nullptr),
        count(at.defined() ? at.numel() - 1 : batch),
        tokens(length) {}
  /// Sequence n is [begin, end) of all tokens of all rows.
  __device__ Index begin(Index n) const { return offsets ? offsets[n] : n * tokens; }
  __device__ Index end(Index n) const { return begin(n + 1); }
  /// Of a token counted through all rows.
  __device__ Index of(Index token) const {
    if (!offsets) {
      return token / tokens;
    }
    Index low = 0, high = count;  // offsets[low] <= token < offsets[high]
    while (high - low > 1) {
      const Index middle = (low + high) / 2;
      (offsets[middle] <= token ? low : high) = middle;
    }
    return low;
  }
};

}  // namespace ls::ops::common
