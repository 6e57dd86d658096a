#pragma once
// Tensors as rows and states of a call.
#include "core/ops/common/elements.h"
#include "core/ops/common/linear_scan/run.h"

namespace ls::ops::linear_scan {

template <class A>
StateRows<const A> state_in(const TensorView& s, Index dv) {
  return {common::elements<A>(s), nullptr, dv};
}
template <class A>
StateRows<A> state_to(TensorView& s, Index dv) {
  return {common::elements<A>(s), nullptr, dv};
}

/// What every call of `op` has: extents by k [..,Dk], v [B,T,H,Dv]; `entries` incoming states.
template <class T, class Y>
void set_extents(const char* op, Call<T, Y>& c, const TensorView& k, const TensorView& v,
                 const TensorView& offsets, Index entries) {
  c.batch = v.size(0);
  c.tokens = v.size(1);
  c.heads = v.size(2);
  c.dk = k.size(3);
  c.dv = c.value_dv = v.size(3);
  c.sequences = {op, c.batch, c.tokens, offsets, entries};
}
/// Entries of a state that may be absent.
inline Index entries_of(const TensorView& s) {
  return s.defined() ? s.size(0) : 0;
}

}  // namespace ls::ops::linear_scan
