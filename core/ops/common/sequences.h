#pragma once
// What scan kernels share: the stretches of tokens they run over, strided operands, scratch memory.
#include <algorithm>
#include <vector>

#include "core/base/parallel_for.h"
#include "core/op/op.h"
#include "core/op/scan_attrs.h"
#include "core/ops/common/elements.h"

namespace ls::ops::common {

/// One stretch of tokens with a state of its own: a batch row, or a packed document.
struct Sequence {
  Index row = 0;    ///< of the batch
  Index begin = 0;  ///< first token
  Index length = 0;
};

/// Rows [B,T], or the documents of `offsets` (then B = 1). @throws Error(Shape) on bad offsets
inline std::vector<Sequence> sequences(Index batch, Index tokens, const TensorView& offsets,
                                       const char* op) {
  std::vector<Sequence> out;
  if (!offsets.defined()) {
    for (Index b = 0; b < batch; ++b) {
      out.push_back({b, 0, tokens});
    }
    return out;
  }
  const std::span<const std::int64_t> at(offsets.data<std::int64_t>(),
                                         static_cast<std::size_t>(offsets.numel()));
  LS_CHECK(batch == 1, kShape, "{}: offsets: packed documents need one batch row, not {}", op,
           batch);
  LS_CHECK(!at.empty() && at.front() == 0 && at.back() == tokens, kShape,
           "{}: offsets run from {} to {}, expected from 0 to {}", op, at.empty() ? -1 : at.front(),
           at.empty() ? -1 : at.back(), tokens);
  for (std::size_t i = 0; i + 1 < at.size(); ++i) {
    LS_CHECK(at[i] <= at[i + 1], kShape, "{}: offset {} is {} and the next one {}", op, i, at[i],
             at[i + 1]);
    out.push_back({0, at[i], at[i + 1] - at[i]});
  }
  return out;
}

/// Number of states: batch rows, or documents.
inline Index sequence_count(Index batch, const ShapeOf& offsets) {
  return offsets.defined() ? offsets.numel() - 1 : batch;
}

/// Binds N, the number of states, and checks that a first state s0, called `name`, has as many.
inline void bind_states(const char* op, Index batch, const ShapeOf& offsets, const ShapeOf& s0,
                        Bindings& b, const char* name = "s0") {
  const Index n = sequence_count(batch, offsets);
  LS_CHECK(!s0.defined() || s0.size(0) == n, kShape, "{}: {} has {} rows for {} sequences", op,
           name, s0.size(0), n);
  if (!b.has("N")) {
    b.set("N", n);
  }
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

/// States of `size` elements, one after the other; all are zero where the tensor is absent.
template <class A>
class States {
 public:
  States(const TensorView& t, Index size) : base_(elements<A>(t)), size_(size) {}
  bool defined() const { return base_ != nullptr; }
  /// State i and those behind it, null where absent.
  const A* at(Index i) const { return defined() ? base_ + i * size_ : nullptr; }
  /// `count` states from state i on.
  void copy(Index i, Index count, A* to) const {
    if (const A* from = at(i)) {
      std::copy(from, from + count * size_, to);
    } else {
      std::fill(to, to + count * size_, A(0));
    }
  }

 private:
  const A* base_;
  Index size_;
};

/// An operand [B,T,H,D] that lies::heads accepts, or [B,T,H] of any strides, then D = 1.
template <class T>
class Operand {
 public:
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
  /// Rows t .. t+n-1 of one head, converted, one after the other.
  template <class A>
  void load(Index b, Index t, Index h, Index n, Index d, A* __restrict to) const {
    for (Index i = 0; i < n; ++i) {
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
