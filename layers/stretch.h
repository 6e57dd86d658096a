#pragma once
// Stretch: the consecutive tokens of every row that one forward pass runs over, and where they
// stand in their documents.
#include <memory>
#include <span>
#include <vector>

#include "core/tensor/tensor.h"

namespace ls::layers {

/// Document starts of a batch, per row: ascending token indices in [0, T) at which a new document
/// begins. A row whose first start is 0 forgets its carried state; a row without starts continues.
/// Without rows: no boundary inside the batch.
using DocumentStarts = std::vector<std::vector<Index>>;

/// Where a stretch stands.
struct StretchPlace {
  DocumentStarts documents;  ///< empty: no boundary inside
  std::vector<Index> seen;   ///< by row: tokens of its document before the stretch; empty: none
  Index first = 0;           ///< tokens of each row before the stretch, of other documents too
  Device* device = &cpu();   ///< where the tensors lie that tell ops of it
};

/// Immutable, but for what it works out when first asked. Not shared between threads.
class Stretch {
 public:
  /// @throws Error(Shape) when the place is for another number of rows
  Stretch(Index rows, Index tokens, StretchPlace place = {});

  Index rows() const { return rows_; }
  Index tokens() const { return tokens_; }
  Index first() const { return place_.first; }
  bool has_documents() const { return !place_.documents.empty(); }
  void set_device(Device& device);
  std::span<const Index> starts(Index row) const;
  /// Tokens of its document that the row had before.
  Index seen(Index row) const { return place_.seen.empty() ? 0 : place_.seen[row]; }
  /// Every row's document had at least so many tokens before.
  bool all_have_seen(Index tokens) const;
  /// Tokens of its last document that each row has had when the stretch is over.
  std::vector<Index> seen_after() const;
  /// i64 [B,T]: index of each token within its document, those before the stretch counted.
  const Tensor& positions() const;
  /// i64 [B,T]: the first token of its document; negative where that lies before the stretch.
  const Tensor& document_start() const;

  /// Documents of all rows laid end to end.
  struct Packing {
    Tensor offsets;               ///< i64 [N+1] over the B*T tokens
    std::vector<Index> begins;    ///< the same, for the host
    std::vector<Index> first_of;  ///< document -> row whose carried state it continues, or -1
    std::vector<Index> last_of;   ///< row -> its last document
  };
  /// @throws Error(Shape) where starts are not ascending within the stretch
  const Packing& packing() const;
  /// Tokens [begin, end) of every row.
  Stretch piece(Index begin, Index end) const;

 private:
  void lay_out() const;

  Index rows_, tokens_;
  StretchPlace place_;
  mutable Tensor positions_, start_, host_start_;
  mutable std::shared_ptr<const Packing> packing_;
};

}  // namespace ls::layers
