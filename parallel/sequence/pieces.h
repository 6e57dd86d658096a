#pragma once
// States and summaries cut into pieces that know nothing of one another.
#include <vector>

#include "layers/scan/scan.h"
#include "parallel/sequence/messages.h"

namespace ls::parallel {

/// Cut along heads where there are more of these than rows, else along rows. What has no axis of
/// heads (the shift of a window) belongs to every piece.
class StatePieces {
 public:
  /// At most.
  static constexpr Index kMost = 8;
  /// `summary`: any of the scan's, for the shapes; of a relay, which has none, there is one piece.
  StatePieces(const layers::ScanInfo& scan, const Tensors& summary);
  int count() const { return count_; }
  /// Of a list of states, of a summary, or of a summary and more states behind it. Undefined
  /// tensors stay so.
  Tensors piece(const Tensors& list, int which) const;
  /// The pieces of a list of states, in order.
  Tensors joined(const std::vector<Tensors>& pieces) const;

 private:
  int axis_at(std::size_t i, std::size_t size) const;
  std::vector<int> axes_;  ///< of each tensor of a summary, from the front; -1: not cut
  std::size_t states_ = 0;
  int count_ = 1;
};

}  // namespace ls::parallel
