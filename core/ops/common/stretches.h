#pragma once
// Token-by-token kernels run backwards with the states of one stretch of tokens in memory at a
// time, and the state at the start of each stretch.
#include "core/ops/common/chunks.h"

namespace ls::ops::common {

template <class A>
class Stretches {
 public:
  /// Of sequences of at most `longest` tokens and states of `size` elements. With `after`, the
  /// state after a token lies behind the one before it.
  Stretches(Workspace<A>& ws, Index longest, Index size, bool after = false)
      : size_(size), after_(after), tokens_(std::min(std::max<Index>(1, longest), kTokens)) {
    ws.add((pieces(longest, tokens_) + 1) * size, starts_);
    ws.add((tokens_ + 1) * size, inside_);
  }
  /// Where the incoming state is to be put first.
  A* start() const { return starts_; }
  /// run(i, from, to) makes the state after token i from the one before, which may be in the same
  /// place; back(i, before) is called from the last token to the first.
  template <class Run, class Back>
  void backwards(Index length, Run&& run, Back&& back) const {
    const Index count = pieces(length, tokens_);
    for (Index z = 0; z + 1 < count; ++z) {
      A* const next = starts_ + (z + 1) * size_;
      for (Index i = 0; i < tokens_; ++i) {
        run(z * tokens_ + i, i > 0 ? next : next - size_, next);
      }
    }
    for (Index z = count - 1; z >= 0; --z) {
      const Index begin = z * tokens_, n = std::min(tokens_, length - begin);
      std::copy(starts_ + z * size_, starts_ + (z + 1) * size_, inside_);
      for (Index i = 0; i < (after_ ? n : n - 1); ++i) {
        run(begin + i, inside_ + i * size_, inside_ + (i + 1) * size_);
      }
      for (Index i = n - 1; i >= 0; --i) {
        back(begin + i, inside_ + i * size_);
      }
    }
  }

 private:
  static constexpr Index kTokens = 64;
  Index size_;
  bool after_;
  Index tokens_;
  A *starts_ = nullptr, *inside_ = nullptr;  // [T/tokens+1,size], [tokens+1,size]
};

}  // namespace ls::ops::common
