#pragma once
// The cache of attention: how much of it holds keys.
#include "core/ops/attention/attention.h"
#include "core/ops/common/indices.h"

namespace ls::ops::common {

/// What is wrong where `used` leaves no room for so many keys in a cache of so many rows.
inline std::string wrong_use(Index rows, Index own) {
  return fmt::format(
      "attention: of a cache of {} rows 0 .. {} may be used, so that {} more have room", rows,
      rows - own, own);
}

/// Keys that k0 holds. A number that leaves no room for those of the call is reported, and 0.
inline Index cached_keys(const Attention::In<TensorView>& in) {
  if (!in.k0.defined()) {
    return 0;
  }
  const Index rows = in.k0.size(1), own = in.k.size(1);
  if (!in.used.defined()) {
    return rows;
  }
  const Index used = *in.used.data<std::int64_t>();
  if (used < 0 || used > rows - own) {
    bad_value(wrong_use(rows, own), 0, used);
    return 0;
  }
  return used;
}

}  // namespace ls::ops::common
