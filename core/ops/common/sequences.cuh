#pragma once
// Which sequence a token is in, on a GPU: a batch row, or a document that `offsets` cut from one
// (common/sequences.h says what offsets and states are).
#include "core/backend/cuda/device/rows.cuh"
#include "core/tensor/tensor_view.h"

namespace ls::ops::common {

struct DeviceSequences {
  const std::int64_t* offsets = nullptr;  ///< [count + 1], or null: rows of `tokens`
  Index count = 0, batch = 0, tokens = 0;

  DeviceSequences(Index rows, Index length, const TensorView& at)
      : offsets(at.defined() && length > 0 ? at.data<std::int64_t>() : nullptr),
        count(offsets ? at.numel() - 1 : rows),
        batch(rows),
        tokens(length) {}
  /// Raises `source` where an offset is bad. Those outside of the tokens are not followed anyway.
  void check(std::int32_t source) const {
    if (!offsets) {
      return;
    }
    ErrorFlag* const flag = cuda::queue().error_flag;
    const DeviceSequences s = *this;
    cuda::for_each<1>(cuda::RowShape(count + 1, 1).apart(), [=] __device__(Index i, Index, auto) {
      const Index here = s.offsets[i], last = i > 0 ? s.offsets[i - 1] : 0;
      const bool right = last <= here && here <= s.batch * s.tokens && (i > 0 || here == 0) &&
                         (i < s.count || here == s.batch * s.tokens);
      if (!right || (here > last && (here - 1) / s.tokens != last / s.tokens)) {
        raise_error(flag, source, i, here);
      }
    });
  }
  /// Sequence n is [begin, end) of all tokens of all rows.
  __device__ Index begin(Index n) const {
    if (!offsets) {
      return n * tokens;
    }
    const Index at = offsets[n], all = batch * tokens;
    return at < 0 ? 0 : at > all ? all : at;
  }
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
  /// The first and the last of a row.
  __device__ Index first_of(Index row) const { return offsets ? of(row * tokens) : row; }
  __device__ Index last_of(Index row) const { return offsets ? of((row + 1) * tokens - 1) : row; }
  /// Entry of the incoming states from which a sequence starts: B inside a row.
  __device__ Index start(Index n) const {
    if (!offsets) {
      return n;
    }
    const Index at = begin(n);
    return at % tokens == 0 && at < batch * tokens ? at / tokens : batch;
  }
  /// Entry of the outgoing states in which it ends: -1 where another one follows in its row.
  __device__ Index stop(Index n) const {
    if (!offsets) {
      return n;
    }
    const Index at = end(n);
    return at > 0 && at % tokens == 0 ? at / tokens - 1 : -1;
  }
  /// The sum of f over the sequences that have an entry of the incoming states.
  template <class A, class F>
  __device__ A over_starts(Index entry, F f) const {
    if (entry < batch) {
      return f(first_of(entry));
    }
    A sum = 0;
    for (Index n = 0; n < count; ++n) {
      if (begin(n) < end(n) && start(n) == entry) {
        sum += f(n);
      }
    }
    return sum;
  }
};

}  // namespace ls::ops::common
