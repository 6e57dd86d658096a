#pragma once
// The ranks of a run as a grid: rows of a batch over one axis, the tokens of each row over the
// other.
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "core/comm/comm.h"
#include "layers/seq_runner.h"

namespace ls::parallel {

/// Ranks along each axis.
struct MeshExtents {
  int data = 1, sequence = 1;
};
/// Of `ranks` ranks; without `data` as many as `sequence` leaves.
/// @throws Error(Config) where the axes are not those ranks
MeshExtents mesh_extents(int ranks, std::optional<Index> data, Index sequence);

/// What is wrong with the name of a strategy, or "".
std::string strategy_fault(const std::string& name);

/// Rank r of the world has place r % sequence in its sequence and r / sequence among the rows:
/// launchers number the ranks of a machine one after the other, so that those of a sequence, which
/// exchange states in every layer, are neighbours.
class Mesh {
 public:
  /// Made by every rank of the world, which outlives it. `strategy`: how scans are split over the
  /// ranks of a sequence, as SplitRunner takes it.
  /// @throws Error(Config) on an unknown strategy
  Mesh(Communicator& world, MeshExtents extents, const std::string& strategy);
  ~Mesh();
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;

  Communicator& world() const { return world_; }
  /// Those with the same place in another sequence: each has other rows.
  Communicator& data() const { return data_ ? *data_ : world_; }
  /// Those of one sequence, in the order of its tokens: all have the same rows.
  Communicator& sequence() const { return *sequence_; }
  /// How scans are run; null: every rank has whole sequences.
  layers::SeqRunner* runner() const;
  /// Tokens [first, second) of `length` are those of rank r of the sequence, or this one's; none
  /// where there are more ranks.
  std::pair<Index, Index> tokens(Index length, int r) const;
  std::pair<Index, Index> tokens(Index length) const { return tokens(length, sequence_->rank()); }

 private:
  struct Runners;
  Communicator& world_;
  std::unique_ptr<Communicator> data_, sequence_;  // data_ null: the world
  std::unique_ptr<Runners> runners_;
};

}  // namespace ls::parallel
