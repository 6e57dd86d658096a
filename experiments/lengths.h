#pragma once
// Length generalisation of a trained model: what happens past the training length, and to its
// states.
#include <optional>
#include <string>
#include <vector>

#include "experiments/evaluate.h"
#include "experiments/result.h"
#include "layers/model.h"

namespace ls::experiments {

/// "1x..64x" (doubling), "1x,2x,8x", "512..65536", "128,4x": ascending lengths in tokens, each
/// once.
/// @throws Error(Config) naming the part that is none
std::vector<Index> parse_lengths(const std::string& text, Index train_length);

/// What is measured, beside loss and accuracy.
struct LengthOptions {
  double level = 0.9;  ///< accuracy below which a position fails
  Index remember = 0;  ///< length at which effective remembrance is measured; 0: see below
  Index rows = 16;     ///< examples of each setting whose states are looked at
};

/// Labels by tokens that the state had read, as PositionRange, in narrower ranges.
struct PositionRecord {
  std::string slice;
  PositionRange range;
};
/// A state, mean over examples.
struct StateRecord {
  Index tokens = 0;  ///< read
  std::string slot;  ///< "blocks.0.mixer.scan.S"
  layers::StatePart part = layers::StatePart::kMatrix;
  Index head = 0;
  double norm = 0;            ///< root of the sum of squares
  double rms = 0;             ///< of an element
  double effective_rank = 0;  ///< NaN of vectors
};
/// EffRem_T(t) = TV(q(. | x[0:T]), q(. | x[t:T])): how much the prediction after T tokens changes
/// when the model has not read the first t, mean over examples of T tokens that are one document.
/// @source Buitrago Ruiz and Gu 2507.02782
struct RemembranceRecord {
  Index read = 0, dropped = 0;  ///< T, t
  double total_variation = 0;
  Index examples = 0;
};
/// ClassSpread of what the head reads, at labels in a range of positions.
struct SpreadRecord {
  Index from = 1, to = 1, labels = 0, classes = 0;
  double within = 0, between = 0, accuracy = 0;
};
/// Loss past the training length. Of both limits at least .01 nats count.
struct Collapse {
  bool found = false;  ///< above twice the largest inside it, or not finite: Chen et al. 2410.07145
  Index at = 0;        ///< position of the first range that is
  double inside = 0, limit = 0, worst = 0;  ///< largest inside; what is too much; largest beyond
  Index rises_at = 0;  ///< first range above 1.05 times the smallest inside; 0: none
};
/// Where accuracy fails: as the spread within the training length says it will, and as it does.
struct Horizon {
  double level = 0.9;
  double threshold = 0;  ///< ratio above which the classes are no longer read
  double predicted = 0;  ///< tokens; infinity: never; NaN: not enough to go by
  Index measured = 0;    ///< first position below the level; 0: none
};

/// One slice: its result, and what it took.
struct LengthRow {
  SliceResult result;
  layers::StateBytes state;  ///< of one sequence after so many tokens; zeros where not run
};

struct LengthStudy {
  std::string model;
  Index step = 0;
  data::Split split = data::Split::kTest;
  Index train_length = 0;
  std::vector<LengthRow> rows;
  std::vector<PositionRecord> positions;
  std::vector<StateRecord> states;
  std::vector<RemembranceRecord> remembrance;
  std::string remembrance_not_run;  ///< why there is none; empty: there is, or one token is too few
  std::vector<SpreadRecord> spread;
  std::optional<Collapse> collapse;  ///< nothing was measured past the training length
  std::optional<Horizon> horizon;    ///< of tasks with few classes
};

/// @throws Error(Config) on several ranks
void check_one_rank(const Communicator& comm);
/// Evaluates the slices of a split, whose lengths the task was made with. One rank.
LengthStudy study_lengths(layers::Model& model, const data::Task& task, data::Split split,
                          const RunConfig& config, std::uint64_t seed, Communicator& comm,
                          Index train_length, const LengthOptions& options);

/// t = 1, 2, 4, ... and T - t likewise, ascending.
std::vector<Index> remembrance_drops(Index length);
/// Effective remembrance over the rows of a batch, each of which is one document, of those t.
std::vector<RemembranceRecord> effective_remembrance(layers::Model& model, const data::Batch& batch,
                                                     const RunConfig& config);
/// From what was measured.
std::optional<Collapse> find_collapse(const std::vector<PositionRange>& ranges, Index train_length);
std::optional<Horizon> find_horizon(const std::vector<SpreadRecord>& spread, Index train_length,
                                    double level);
/// Ranges of positions: eight of one size up to the training length, then eight to each doubling.
std::vector<PositionRange> position_ranges(Index train_length, Index longest);

}  // namespace ls::experiments
