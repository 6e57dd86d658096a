#pragma once
// Stretch: the consecutive tokens of every row that one forward pass runs over, and where they
// stand in their documents.
#include <optional>
#include <span>
#include <vector>

#include "core/tensor/tensor.h"

namespace ls::layers {

/// Document starts of a batch, per row: ascending token indices in [0, T) at which a new document
/// begins. A row whose first start is 0 forgets its carried state; a row without starts continues.
/// Without rows: no boundary inside the batch.
using DocumentStarts = std::vector<std::vector<Index>>;

/// In which order scans read.
enum class Direction : std::uint8_t { kForward, kBackward };

/// Where a stretch stands, in the order in which scans read it.
struct StretchPlace {
  DocumentStarts documents;  ///< empty: no boundary inside
  std::vector<Index> seen;   ///< by row: tokens of its document before the stretch; empty: none
  std::vector<Index> left;   ///< by row: tokens of its last document behind it; empty: none
  /// By row: does it go on from the state that it is given? Empty: where there were such tokens.
  std::vector<bool> begun = {};
  Index first = 0;          ///< tokens of each row before the stretch, of other documents too
  Index after = 0;          ///< the same behind it
  Device* device = &cpu();  ///< where the tensors lie that tell ops of it
  Index capacity = 0;       ///< documents that `offsets` have room for; 0: no more than there are
  /// kBackward: token 0 is the last in time, what is said above is of that order, and of ranks the
  /// last is the first.
  Direction direction = Direction::kForward;
};

/// What ops are told of a stretch, i64. Without the last three every row goes on with a document
/// that began before, and none begins inside.
struct StretchTensors {
  Tensor positions;  ///< [B,T]: index of each token within its document, those before counted
  Tensor start;      ///< [B,T]: first token of its document; negative: before the stretch
  Tensor offsets;    ///< [N+1]: documents of all rows laid end to end; filled up with B*T
  Tensor goes_on;    ///< [B]: the row, where its first token goes on with a document; else -1
  /// [B+1]: what each row, and a document that begins inside one, starts from, of states whose last
  /// entry, B, is the fresh one: the row where tokens of its document came before.
  Tensor fresh;
};

/// Immutable, but for what it works out when first asked. Not shared between threads.
class Stretch {
 public:
  /// @throws Error(Shape) when the place is for another number of rows
  Stretch(Index rows, Index tokens, StretchPlace place = {});
  /// One of which nothing is known but these tensors, whose elements change: a step that runs on it
  /// may be recorded, and done again when they hold other documents.
  Stretch(Index rows, Index tokens, StretchTensors tensors);

  Index rows() const { return rows_; }
  Index tokens() const { return tokens_; }
  Index first() const { return place_.first; }
  Direction direction() const { return place_.direction; }
  /// Only the tensors tell, now and later; nothing below that is not one may be asked.
  bool varies() const { return varies_; }
  bool has_documents() const { return !place_.documents.empty(); }
  void set_device(Device& device);
  std::span<const Index> starts(Index row) const;
  /// Tokens of its document that the row had before.
  Index seen(Index row) const;
  /// Does the row go on from the state that it is given, unless a document begins at its front?
  bool begun(Index row) const;
  const StretchPlace& place() const { return place_; }
  /// Tokens of its last document that the row has behind the stretch.
  Index left(Index row) const { return place_.left.empty() ? 0 : place_.left[row]; }
  /// Every row's document had at least so many tokens before.
  bool all_have_seen(Index tokens) const;
  /// Tokens of its last document that each row has had when the stretch is over.
  std::vector<Index> seen_after() const;
  /// Documents, at least one a row.
  Index documents() const;
  /// @throws Error(Shape) where starts are not ascending within the stretch, or documents are more
  /// than the capacity
  const StretchTensors& tensors() const;
  const Tensor& positions() const { return tensors().positions; }
  /// Tokens [begin, end) of every row.
  Stretch piece(Index begin, Index end) const;
  /// The same tokens of rows [begin, end).
  Stretch of_rows(Index begin, Index end) const;
  /// The same tokens read in the other direction, so that documents begin where they ended.
  Stretch turned() const;
  /// i64 [B*T]: by row of the turned tokens [B*T,...] the row that it is.
  const Tensor& turn() const;

 private:
  StretchTensors lay_out() const;
  bool continues(Index row) const { return starts(row).empty() || starts(row)[0] != 0; }

  Index rows_, tokens_;
  StretchPlace place_;
  bool varies_ = false;
  mutable std::optional<StretchTensors> tensors_;
  mutable Tensor turn_;
};

}  // namespace ls::layers
