#pragma once
// The states that the rows of an update start from (`state:` of the config), and what is kept of
// those that they end in.
#include <map>
#include <span>
#include <string>
#include <vector>

#include "data/batcher.h"
#include "experiments/row_starts.h"
#include "experiments/run_state.h"

namespace ls::experiments {

/// What the rows of a piece start from, as the host tells it.
struct PieceStarts {
  /// Documents, where rows stand in them, and which go on from the states that they are given.
  layers::StretchPlace place;
  /// By row, of the states kept from the update before; -1: zeros.
  std::vector<Index> entries;
  /// [rows,...] by slot, on the host, is added; empty: nothing is.
  std::map<std::string, Tensor> noise;
};

class FirstStates {
 public:
  /// The part must outlive it.
  explicit FirstStates(const RunPart& part);

  /// Of the pieces of this rank's rows, none where all rows start alike. Where states are fitted
  /// anew it waits for those of the update before, on every rank.
  std::vector<PieceStarts> plan(const data::Batch& batch, std::span<const data::Batch> pieces,
                                RunState& state);
  /// What entries are numbers in: the states kept, else zeros; no slots: rows start as without.
  const layers::ModelState& base(const layers::ModelState& kept) const;
  /// The states themselves; index and noise lie where the model does.
  static layers::ModelState of(const layers::ModelState& base, const Tensor& index,
                               const std::map<std::string, Tensor>& noise);
  /// What later updates need of the states that the pieces of a batch of `rows` rows end in: of all
  /// ranks' rows, in blocks of equal size, where rows start from those of other ranks.
  layers::ModelState kept(const std::vector<layers::ModelState>& ends, Index rows) const;

 private:
  /// The number among the states kept of a row of the whole batch.
  Index entry(Index row, Index rows) const;
  void fit(RunState& state, Index step) const;
  std::map<std::string, Tensor> noise(const data::Batch& piece, std::span<const RowStart> rows,
                                      Index step, const RunState& state) const;

  const RunPart& part_;
  const StateConfig& config_;
  Communicator& data_;        // ranks with other rows
  layers::ModelState zeros_;  // of one row, without keys and values
  bool shares_;               // rows start from those of other ranks
};

}  // namespace ls::experiments
