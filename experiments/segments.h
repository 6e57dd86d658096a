#pragma once
// A piece of a batch as segments of its tokens that are computed one at a time.
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/batcher.h"
#include "experiments/first_states.h"
#include "layers/model.h"
#include "parallel/mesh.h"

namespace ls::experiments {

/// What the model reads.
struct PieceInputs {
  layers::ModelInput input;
  Tensor labels;  ///< i64 [rows,T]
  Tensor count;   ///< f64 []: of labels
};

struct Segment {
  PieceInputs inputs;
  bool labelled = true;  ///< may have labels
  layers::ModelState incoming;
  std::unique_ptr<layers::SeqContext> seq;
  /// Of a pass before that, without a tape, which looks for the state behind it; null: there is
  /// none.
  std::unique_ptr<layers::SeqContext> ahead;
};

/// How rows are cut: `segments` and `back` of the config.
struct SegmentPlan {
  Index count = 1, reach = 1;
  const parallel::Mesh* mesh = nullptr;  ///< null: each rank has whole sequences
  /// Rows go on in later updates, so that nobody knows how many tokens they have in the end.
  bool streams = false;
  Index length_of(Index tokens) const { return streams ? 0 : tokens; }
  /// Is there a pass before that of segment s?
  bool looks_ahead(Index s) const { return (s + 1) % reach != 0 && s + 1 < count; }
};

/// The places of the segments of rows that stand at `place`.
std::vector<layers::StretchPlace> segment_places(const layers::StretchPlace& place, Index rows,
                                                 Index tokens, Index count);
/// A segment whose contexts are made with these options; `goes_on`: it starts from `incoming`,
/// which is filled in later.
std::unique_ptr<Segment> make_segment(Index rows, Index tokens, PieceInputs inputs, bool goes_on,
                                      bool looks_ahead, layers::SeqOptions options);
/// A piece as it comes, on the device; of each segment this rank's tokens. `starts` may be null,
/// `states` are those of its rows.
/// `told`: ops are told of documents where there are none, as a recording tells them.
std::vector<std::unique_ptr<Segment>> segments_of(
    const data::Batch& piece, const PieceStarts* starts, layers::ModelState states,
    const SegmentPlan& plan, layers::SeqOptions options, bool told, Device& device);

/// Gradients by slot.
using StateGradients = std::map<std::string, Tensor>;
/// Forward and backward pass of one segment, given the gradients of the states that it ends in;
/// those of the states that it started from, where these are leaves.
using SegmentPass = std::function<StateGradients(Segment&, const StateGradients&)>;

/// All of them: forward to the end of as many as gradients go through, then backward from there;
/// the states that the last one ends in.
layers::ModelState run_segments(layers::Model& model,
                                std::vector<std::unique_ptr<Segment>>& segments,
                                const SegmentPlan& plan, const SegmentPass& pass);

}  // namespace ls::experiments
