#pragma once
// Which heads of q, k and u belong to a state head of decayed_linear, and to an output head.
#include <algorithm>

#include "core/ops/decayed_linear/decayed_linear.h"

namespace ls::ops::decayed_linear {

struct Heads {
  Index state, query, key, bonus;
  template <class T>
  explicit Heads(const DecayedLinear::In<T>& in)
      : state(in.v.size(2)),
        query(in.q.size(2)),
        key(in.k.size(2)),
        bonus(in.u.defined() ? in.u.size(0) : 1) {}
  Index out() const { return std::max(query, state); }
  /// Output heads that read one state.
  Index group() const { return out() / state; }
  // Of state head h; of its j-th output.
  Index key_of(Index h) const { return h / (state / key); }
  Index bonus_of(Index h) const { return h / (state / bonus); }
  Index query_of(Index h, Index j) const {
    return query >= state ? h * group() + j : h / (state / query);
  }
  Index out_of(Index h, Index j) const { return h * group() + j; }
};

}  // namespace ls::ops::decayed_linear
