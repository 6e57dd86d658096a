#pragma once
// What nonlinear cells (lstm, gru) share: all sequences advance together, longest first, so that
// those which still run at a step are the first rows of the state, and a step is a matrix product.
#include <algorithm>
#include <numeric>
#include <vector>

#include "core/ops/common/sequences.h"
#include "core/tensor/view.h"

namespace ls::ops::common {

/// Sequences of a cell whose recurrent weights are r [heads,gates*d,d]; a row of gates is blocks of
/// D = heads d units, a row of a product with r is [heads,gates,d].
template <class A>
struct CellSteps {
  Index heads, d, width, gates, tokens;
  std::vector<Index> order;    ///< states of the sequences, longest first
  std::vector<Sequence> seqs;  ///< in that order
  Index steps = 0;             ///< tokens of the longest
  Index total = 0;             ///< tokens of all

  CellSteps(const char* op, const TensorView& r, const TensorView& x, const TensorView& offsets)
      : heads(r.size(0)),
        d(r.size(2)),
        width(heads * d),
        gates(r.size(1) / std::max<Index>(1, d)),
        tokens(x.size(1)) {
    const auto given = sequences(x.size(0), tokens, offsets, op);
    order.resize(given.size());
    std::iota(order.begin(), order.end(), Index{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](Index a, Index b) { return given[a].length > given[b].length; });
    for (const Index n : order) {
      seqs.push_back(given[n]);
      total += given[n].length;
    }
    steps = longest(seqs);
  }
  Index count() const { return std::ssize(seqs); }
  /// Sequences that are longer than t.
  Index active(Index t) const {
    const auto ended = [t](const Sequence& s) { return s.length <= t; };
    return std::find_if(seqs.begin(), seqs.end(), ended) - seqs.begin();
  }
  /// Row of [B*T] of step t of the i-th longest sequence.
  Index row(Index i, Index t) const { return seqs[i].row * tokens + seqs[i].begin + t; }
  /// Where element 0 of a head's gate lies in a row of gates, and in a row of a product.
  Index block(Index gate, Index head) const { return gate * width + head * d; }
  Index in_product(Index gate, Index head) const { return (head * gates + gate) * d; }
  /// Rows [N,D] in the order of the sequences, zero where absent.
  Buffer<A, 2> sorted(const TensorView& states) const {
    Buffer<A, 2> to(count(), width);
    const States<A> from(states, width);
    for (Index i = 0; i < count(); ++i) {
      from.copy(order[i], 1, to.data() + i * width);
    }
    return to;
  }
  /// Row i of `from` becomes that of its sequence, where `states` is wanted.
  void unsort(const Buffer<A, 2>& from, Index i, TensorView& states) const {
    if (states.defined()) {
      std::copy_n(from.data() + i * width, width, states.data<A>() + order[i] * width);
    }
  }
  /// The gradient of a bias [gates*D] from those of all rows of products [total,heads,gates,d].
  void sum_bias(const Buffer<A, 2>& rows, A* db) const {
    std::fill(db, db + gates * width, A(0));
    for (Index i = 0; i < total; ++i) {
      for (Index e = 0; e < heads; ++e) {
        for (Index gate = 0; gate < gates; ++gate) {
          for (Index u = 0; u < d; ++u) {
            db[block(gate, e) + u] += rows(i, in_product(gate, e) + u);
          }
        }
      }
    }
  }
};

}  // namespace ls::ops::common
