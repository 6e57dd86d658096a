#pragma once
// The state of a model between two stretches of tokens, measured from its real buffers.
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "autograd/var.h"
#include "layers/scan/scan.h"

namespace ls::layers {

/// Bytes by part; see StatePart.
struct StateBytes {
  Index matrix = 0, vector = 0, conv = 0, kv = 0;
  Index total() const { return matrix + vector + conv + kv; }
  void add(StatePart part, Index bytes);
};

/// One carried tensor; the leading axis is the batch row.
struct StateSlot {
  ag::Var value;
  StatePart part = StatePart::kMatrix;
  bool grows = false;  ///< by a row for each token, on the second axis
  bool given = false;  ///< the mixer gives what its documents start from
  Index most = 0;      ///< rows there at most, of keys and values under a window; 0: no bound
};

/// Keys or values [rows,T,...] without those at the front that no row sees any more: of a row whose
/// document has had n tokens, the last n belong to it.
ag::Var seen_rows(const ag::Var& cache, const std::vector<Index>& position);

/// Entries of `states` [N,...] by an index i64 [B] that lies where they do; -1 gives zeros.
ag::Var entries(const ag::Var& states, const Tensor& index);

/// Slots by path ("blocks.0.mixer.S"), and where each row stands in its document. Empty before the
/// first token.
struct ModelState {
  std::map<std::string, StateSlot> slots;
  /// Tokens of the current document that each row has seen.
  std::vector<Index> position;
  /// i64 []: rows of growing caches that hold keys and values, which are then buffers with room;
  /// undefined: all of them. Who runs the model counts it on.
  Tensor used;

  /// Bytes of all buffers, over all rows.
  StateBytes bytes() const;
  /// The same values off the tape (truncated back-propagation).
  ModelState detached() const;
  /// Rows by index, in any order and number; -1 gives a row without history. Keys and values that
  /// none of them sees are left out.
  ModelState rows(const std::vector<Index>& index) const;
  /// Rows [begin, end).
  ModelState rows(Index begin, Index end) const;
  /// The rows of all parts end to end, off the tape; caches that are shorter than others get zeros
  /// in front, where no row looks.
  static ModelState stacked(const std::vector<ModelState>& parts);
  /// What `f` makes of each tensor, the positions as i64 [rows] among them, off the tape: `f` may
  /// lay the rows of several ranks end to end.
  ModelState mapped(const std::function<Tensor(const Tensor&)>& f) const;
};

}  // namespace ls::layers
