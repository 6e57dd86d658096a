#pragma once
// What scan kernels share: the stretches of tokens they run over, strided operands, scratch memory.
//
// States are of rows: entry b of s0 is what row b starts from, entry b of sT what it ends in. With
// `offsets` [N1] rows hold documents: numbers of tokens, those of all B rows of T counted on, that
// ascend from 0 to B*T with the end of every row among them. A document that begins inside a row
// starts from zeros, or from entry B of s0, which then has N = B + 1. Documents without tokens
// change nothing: they fill offsets up where N1 is more than is needed, so that the values, and not
// the shapes, say where documents are.
#include <algorithm>
#include <span>
#include <vector>

#include "core/base/parallel_for.h"
#include "core/op/op.h"
#include "core/op/scan_attrs.h"
#include "core/ops/common/elements.h"
#include "core/ops/common/indices.h"
#include "core/tensor/rows.h"
#include "core/tensor/view.h"

namespace ls::ops::common {

/// One stretch of tokens that a state runs through: a batch row, or a document in one.
struct Sequence {
  Index row = 0;    ///< of the batch
  Index begin = 0;  ///< first token
  Index length = 0;
  Index start = 0;  ///< entry of the incoming states: its row's; B of a document that begins inside
  Index end = 0;    ///< entry of the outgoing states: its row's; -1 where another document follows
};

/// The rows [B,T], each a sequence.
inline std::vector<Sequence> whole_rows(Index batch, Index tokens) {
  std::vector<Sequence> out;
  for (Index b = 0; b < batch; ++b) {
    out.push_back({b, 0, tokens, b, b});
  }
  return out;
}

/// The first of `offsets` that is none: they ascend from 0 to B*T, and every row's end is among
/// them. -1 where all are right.
inline Index bad_offset(Index batch, Index tokens, std::span<const std::int64_t> at) {
  const auto count = std::ssize(at);
  for (Index i = 0; i < count; ++i) {
    const Index here = at[i], last = i > 0 ? at[i - 1] : 0;
    const bool first = i > 0 || here == 0;
    const bool inside = last <= here && here <= batch * tokens;
    if (!first || !inside || (here > last && (here - 1) / tokens != last / tokens)) {
      return i;
    }
  }
  return at[count - 1] == batch * tokens ? -1 : count - 1;
}

/// Rows [B,T], or the documents that `offsets` [N+1] cut them into: numbers of tokens, those of all
/// rows counted on. Documents of no token, for instance what fills `offsets` up, are left out. Bad
/// offsets are reported (bad_value) and not followed.
inline std::vector<Sequence> sequences(Index batch, Index tokens, const TensorView& offsets,
                                       const char* op) {
  if (!offsets.defined() || tokens == 0) {
    return whole_rows(batch, tokens);
  }
  const std::span<const std::int64_t> at(offsets.data<std::int64_t>(),
                                         static_cast<std::size_t>(offsets.numel()));
  if (const Index bad = bad_offset(batch, tokens, at); bad >= 0) {
    bad_value(fmt::format("{}: offsets ascend from 0 to {} and hold the end of every row of {} "
                          "tokens",
                          op, batch * tokens, tokens),
              bad, at[bad]);
    return whole_rows(batch, tokens);
  }
  std::vector<Sequence> out;
  for (std::size_t i = 0; i + 1 < at.size(); ++i) {
    if (at[i] < at[i + 1]) {
      const Index row = at[i] / tokens;
      out.push_back({row, at[i] % tokens, at[i + 1] - at[i], at[i] % tokens == 0 ? row : batch,
                     at[i + 1] % tokens == 0 ? row : -1});
    }
  }
  return out;
}

/// Checks offsets, and the incoming states s0, called `name`: one for each row, and with offsets
/// perhaps one more, from which documents start that begin inside a row.
inline void bind_states(const char* op, Index batch, const ShapeOf& offsets, const ShapeOf& s0,
                        const char* name = "s0") {
  LS_CHECK(!offsets.defined() || offsets.numel() > 0, kShape, "{}: offsets are empty", op);
  if (!s0.defined()) {
    return;
  }
  const Index n = s0.size(0);
  LS_CHECK(n == batch || (offsets.defined() && n == batch + 1), kShape,
           "{}: {} has {} entries for {} rows; expected one each{}", op, name, n, batch,
           offsets.defined() ? ", and perhaps one for documents that begin inside a row" : "");
}

inline Index longest(const std::vector<Sequence>& seqs) {
  Index n = 0;
  for (const Sequence& s : seqs) {
    n = std::max(n, s.length);
  }
  return n;
}

/// Pieces of `size` that n elements fill, the last one perhaps not to its end.
inline Index pieces(Index n, Index size) {
  return (n + size - 1) / size;
}

/// States [entries,heads,size] by task = sequence * heads + head, where a sequence's entry is its
/// `start` or its `end`. The sequences outlive it.
template <class A, Index Sequence::*kEntry>
class States {
 public:
  States() = default;
  template <class AnyTensor>
  States(AnyTensor& t, Index heads, Index size, std::span<const Sequence> seqs)
      : base_(elements<std::remove_const_t<A>>(t)),
        entries_(base_ ? t.size(0) : 0),
        heads_(heads),
        size_(size),
        seqs_(seqs) {}
  bool defined() const { return base_ != nullptr; }
  /// The state of a task and those of the heads behind it; null where there is none.
  A* at(Index task) const {
    if (!base_) {
      return nullptr;
    }
    const Index entry = seqs_[static_cast<std::size_t>(task / heads_)].*kEntry;
    return 0 <= entry && entry < entries_ ? base_ + (entry * heads_ + task % heads_) * size_
                                          : nullptr;
  }
  /// The same; `otherwise` where there is none.
  A* at(Index task, A* otherwise) const {
    A* const own = at(task);
    return own ? own : otherwise;
  }
  /// The states of `count` heads from a task on; zero where there are none.
  void copy(Index task, Index count, std::remove_const_t<A>* to) const {
    if (const A* from = at(task)) {
      std::copy(from, from + count * size_, to);
    } else {
      std::fill(to, to + count * size_, A(0));
    }
  }

 private:
  A* base_ = nullptr;
  Index entries_ = 0, heads_ = 1, size_ = 0;
  std::span<const Sequence> seqs_;
};
/// What sequences start from, and the gradients that arrive for what they end in.
template <class A>
using FirstStates = States<const A, &Sequence::start>;
template <class A>
using LastGradients = States<const A, &Sequence::end>;

/// Where the states go that sequences end in. Those of documents that another one follows are not
/// wanted; a kernel that works in them does so in a buffer of its own.
template <class A>
using LastStates = States<A, &Sequence::end>;
/// Elements of that buffer for states of so many.
inline Index spare_of(std::span<const Sequence> seqs, Index size) {
  return std::any_of(seqs.begin(), seqs.end(), [](const Sequence& s) { return s.end < 0; }) ? size
                                                                                            : 0;
}

/// Where the gradients go of what sequences start from. The entry that documents inside rows share
/// gets the sum of theirs, in their order.
template <class A>
class FirstGradients {
 public:
  template <class AnyTensor>
  FirstGradients(AnyTensor& t, Index heads, Index size, std::span<const Sequence> seqs)
      : rows_(t, heads, size, seqs), heads_(heads), size_(heads * size), seqs_(seqs) {
    Index rows = 0;
    for (const Sequence& s : seqs) {
      rows = std::max(rows, s.row + 1);
    }
    if (!rows_.defined() || t.size(0) <= rows) {
      return;
    }
    shared_ = elements<A>(t) + rows * size_;
    parts_.resize(seqs.size());
    Index inside = 0;
    for (std::size_t n = 0; n < seqs.size(); ++n) {
      parts_[n] = seqs[n].start == rows ? inside++ : -1;
    }
    memory_ = Tensor::empty({inside, size_}, dtype_of<A>::value);
    inside_ = memory_.data<A>();
  }
  bool defined() const { return rows_.defined(); }
  /// Null where it is not wanted.
  A* at(Index task) const {
    const auto n = static_cast<std::size_t>(task / heads_);
    if (shared_ && parts_[n] >= 0) {
      return inside_ + parts_[n] * size_ + task % heads_ * (size_ / heads_);
    }
    return rows_.at(task);
  }
  /// Once, when all are there.
  void finish() const {
    if (!shared_) {
      return;
    }
    std::fill(shared_, shared_ + size_, A(0));
    for (Index n = 0; n < memory_.size(0); ++n) {
      for (Index i = 0; i < size_; ++i) {
        shared_[i] += inside_[n * size_ + i];
      }
    }
  }

 private:
  States<A, &Sequence::start> rows_;
  Index heads_, size_;
  std::span<const Sequence> seqs_;
  std::vector<Index> parts_;  ///< of each sequence among those inside rows, or -1
  Tensor memory_;
  A *inside_ = nullptr, *shared_ = nullptr;
};

/// Of a reference: element `at` of the state that is entry `entry`; 0 where there is none.
template <class T, int N, class... I>
std::remove_const_t<T> state_or_zero(const View<T, N>& x, Index entry, I... at) {
  return 0 <= entry && entry < x.size(0) ? x(entry, at...) : std::remove_const_t<T>(0);
}
/// Sets it to `value`, or adds that where several sequences have the entry.
template <class T, int N, class... I>
void put_state(const View<T, N>& x, T value, Index entry, I... at) {
  if (0 <= entry && entry < x.size(0)) {
    x(entry, at...) = value;
  }
}
template <class T, int N, class... I>
void add_state(const View<T, N>& x, T value, Index entry, I... at) {
  if (0 <= entry && entry < x.size(0)) {
    x(entry, at...) += value;
  }
}

/// An operand [B,T,H,D] that lies::heads accepts, or [B,T,H] of any strides, then D = 1.
template <class T>
class Operand {
 public:
  static constexpr Index kAhead = 12;  ///< rows, of those to be fetched soon
  Operand() = default;
  explicit Operand(const TensorView& t) {
    if (!t.defined()) {
      return;
    }
    LS_ASSERT(t.rank() < 4 || lies::heads(t.layout()));
    base_ = t.data<T>();
    b_ = t.stride(0);
    t_ = t.stride(1);
    h_ = t.stride(2);
  }
  bool defined() const { return base_ != nullptr; }
  const T* at(Index b, Index t, Index h) const { return base_ + b * b_ + t * t_ + h * h_; }
  /// Asks for d elements of a row, which need not exist, to be in cache soon: rows of one head are
  /// no stream that the processor would fetch ahead by itself.
  void prefetch(Index b, Index t, Index h, Index d) const { ls::prefetch(at(b, t, h), d); }
  /// Rows t .. t+n-1 of one head, converted, one after the other.
  template <class A>
  void load(Index b, Index t, Index h, Index n, Index d, A* __restrict to) const {
    for (Index i = 0; i < n; ++i) {
      prefetch(b, t + i + kAhead, h, d);
      const T* __restrict from = at(b, t + i, h);
      for (Index c = 0; c < d; ++c) {
        to[i * d + c] = convert<A>(from[c]);
      }
    }
  }

 private:
  const T* base_ = nullptr;
  Index b_ = 0, t_ = 0, h_ = 0;
};

/// A result [B,T,H,D] (or [B,T,H]) whose last axis is contiguous, as of a gradient that
/// KernelBuilder::strided_grad names; undefined results are not written.
template <class T>
class Result {
 public:
  Result() = default;
  template <class S>
  explicit Result(LaidOut<S>& t) {
    base_ = elements<T>(t);
    if (base_) {
      t_ = t.stride(1);
      b_ = t.stride(0);
      h_ = t.stride(2);
    }
  }
  bool defined() const { return base_ != nullptr; }
  T* at(Index b, Index t, Index h) const { return base_ + b * b_ + t * t_ + h * h_; }
  /// The inverse of Operand::load; nothing where undefined.
  template <class A>
  void store(Index b, Index t, Index h, Index n, Index d, const A* __restrict from) const {
    if (!defined()) {
      return;
    }
    for (Index i = 0; i < n; ++i) {
      T* __restrict to = at(b, t + i, h);
      for (Index c = 0; c < d; ++c) {
        to[c] = convert<T>(from[i * d + c]);
      }
    }
  }

 private:
  T* base_ = nullptr;
  Index b_ = 0, t_ = 0, h_ = 0;
};

/// Buffers of one thread, handed out one after the other, uninitialised; freed when the scope ends.
template <class A>
class Scratch {
 public:
  explicit Scratch(Index capacity)
      : storage_(capacity * Index{sizeof(A)}),
        memory_(static_cast<A*>(storage_.data())),
        capacity_(capacity) {}
  A* take(Index n) {
    LS_ASSERT(used_ + n <= capacity_);
    A* const p = memory_ + used_;
    used_ += n;
    return p;
  }

 private:
  Storage storage_;
  A* memory_;
  Index capacity_, used_ = 0;
};

}  // namespace ls::ops::common
