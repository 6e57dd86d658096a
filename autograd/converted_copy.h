#pragma once
// Leaves in another element type, converted once for each change, not at each use.
#include <cstdint>

#include "core/tensor/tensor.h"

namespace ls::ag {

/// Of all leaves that are views of one buffer (the parameters of a block), converted together; made
/// when the first of them is asked for.
class ConvertedCopy {
 public:
  /// `kept`: whoever changes the buffer calls `refresh`, so that graphs may read the copy.
  explicit ConvertedCopy(Tensor buffer, bool kept) : from_(std::move(buffer)), kept_(kept) {}

  bool is_of(const Tensor& leaf) const { return from_.shares_storage(leaf); }
  /// The leaf in that type, as its buffer is now. A graph that is recorded converts it at every
  /// replay, unless the copy is kept.
  Tensor of(const Tensor& leaf, DType dtype);
  /// Converts again where the buffer was written since; nothing where nobody has asked yet.
  void refresh();
  /// Gives the copy's memory back, and has it again as the buffer is now, for whoever saved a part
  /// of it: the buffer was dropped and has its elements again. The copy, undefined where nobody has
  /// asked for one.
  Tensor drop();
  Tensor restore();
  /// A graph that refreshes the copy was replayed.
  void note_fresh() { version_ = from_.version(); }

 private:
  bool stale() const { return version_ != from_.version(); }
  Tensor from_, to_;
  std::uint64_t version_ = 0;
  bool kept_;
};

}  // namespace ls::ag
