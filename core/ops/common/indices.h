#pragma once
// Values that index something. A kernel that meets a bad one says so and follows none of them.
#include <algorithm>
#include <optional>
#include <string>

#include "core/op/op.h"
#include "core/ops/common/elements.h"
#include "core/tensor/context.h"
#include "core/tensor/host_errors.h"
#include "core/tensor/tensor_view.h"
#include "core/tensor/view.h"

namespace ls::ops {

/// Raises the error flag of the work that runs now; `what` is what was expected.
inline void bad_value(const std::string& what, Index position, Index value) {
  raise_error(current_error_flag(), error_source(what), position, value);
}

/// Contiguous indices lie in lo .. hi-1, or are `also`. If not, the first that does not is reported
/// ("embedding: ids must lie in 0 .. 7: the value 9 at position 3 is not allowed").
inline bool check_indices(const char* op, const char* what, const TensorView& index, Index lo,
                          Index hi, std::optional<Index> also = std::nullopt) {
  const std::int64_t* const at = index.data<std::int64_t>();
  for (Index i = 0; i < index.numel(); ++i) {
    if ((at[i] < lo || at[i] >= hi) && !(also && at[i] == *also)) {
      bad_value(fmt::format("{}: {} must lie in {} .. {}{}", op, what, lo, hi - 1,
                            also ? ", or be ignore_index " + std::to_string(*also) : ""),
                i, at[i]);
      return false;
    }
  }
  return true;
}

inline std::string wrong_start(const char* op, Index keys) {
  return fmt::format("{}: start is at most {}", op, keys);
}
/// First visible keys [B,Tq], at most `keys`; empty where they are absent, or one is bad.
inline View<const std::int64_t, 2> checked_starts(const char* op, const TensorView& start,
                                                  Index keys) {
  const std::int64_t* const at = common::elements<std::int64_t>(start);
  for (Index i = 0; at && i < start.numel(); ++i) {
    if (at[i] > keys) {
      bad_value(wrong_start(op, keys), i, at[i]);
      return {};
    }
  }
  return View<const std::int64_t, 2>(start);
}

/// Zeros every tensor of an Out or In that is there: what a kernel leaves that follows no index.
template <class Tensors>
void leave_zero(Tensors& out) {
  for (TensorView* const t : ls::detail::members<TensorView>(out)) {
    if (t->defined()) {
      common::zeroed(*t);
    }
  }
}

}  // namespace ls::ops
