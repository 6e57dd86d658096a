#pragma once
// What nonlinear cells (lstm, gru) share: all sequences advance together, longest first, so that
// those which still run at a step are the first rows of the state, and a step is a matrix product.
#include <algorithm>
#include <vector>

#include "core/ops/common/sequences.h"
#include "core/tensor/view.h"

namespace ls::ops::common {

/// Sequences of a cell whose recurrent weights are r [heads,gates*d,d]; a row of gates is blocks of
/// D = heads d units, a row of a product with r is [heads,gates,d].
template <class A>
struct CellSteps {
  Index heads, d, width, gates, tokens;
  std::vector<Sequence> seqs;  ///< longest first
  Index steps = 0;             ///< tokens of the longest
  Index total = 0;             ///< tokens of all

  CellSteps(const char* op, const TensorView& r, const TensorView& x, const TensorView& offsets)
      : heads(r.size(0)),
        d(r.size(2)),
        width(heads * d),
        gates(r.size(1) / std::max<Index>(1, d)),
        tokens(x.size(1)),
        seqs(sequences(x.size(0), tokens, offsets, op)) {
    std::stable_sort(seqs.begin(), seqs.end(),
                     [](const Sequence& a, const Sequence& b) { return a.length > b.length; });
    for (const Sequence& s : seqs) {
      total += s.length;
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
  /// Of incoming states: what the sequences start from, in their order.
  Buffer<A, 2> firsts(const TensorView& states) const {
    return in_order(FirstStates<A>(states, 1, width, seqs));
  }
  /// The same of gradients that arrive for what they end in.
  Buffer<A, 2> last_gradients(const TensorView& states) const {
    return in_order(LastGradients<A>(states, 1, width, seqs));
  }
  /// Row i of `from` is what the i-th longest ends in.
  void put_last(const Buffer<A, 2>& from, Index i, TensorView& states) const {
    if (A* const to = LastStates<A>(states, 1, width, seqs).at(i)) {
      std::copy_n(from.data() + i * width, width, to);
    }
  }
  /// Rows are gradients of what the sequences start from.
  void put_first_gradients(const Buffer<A, 2>& from, TensorView& states) const {
    const FirstGradients<A> all(states, 1, width, seqs);
    for (Index i = 0; i < count(); ++i) {
      if (A* const to = all.at(i)) {
        std::copy_n(from.data() + i * width, width, to);
      }
    }
    all.finish();
  }
  template <class States>
  Buffer<A, 2> in_order(const States& from) const {
    Buffer<A, 2> to(count(), width);
    for (Index i = 0; i < count(); ++i) {
      from.copy(i, 1, to.data() + i * width);
    }
    return to;
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
