#pragma once
// A training step as a graph: recorded once for the batches of one shape, replayed for each.
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor/graph.h"
#include "core/tensor/step_inputs.h"
#include "experiments/segments.h"
#include "layers/stretch_inputs.h"

namespace ls::experiments {

/// All that its recording depends on, besides the config.
struct StepShape {
  Index rows = 0, length = 0;
  Index documents = 0;   ///< room for them in each piece; 0: none begins inside a row
  bool carried = false;  ///< rows go on from carried states
  auto operator<=>(const StepShape&) const = default;
};

/// What a recording is made for.
struct StepLayout {
  std::span<const data::Batch> pieces;
  std::span<const PieceStarts> starts;       ///< none, or one for each piece
  const layers::ModelState* base = nullptr;  ///< what their entries are numbers in
  Index documents = 0;                       ///< room for them in each piece; 0: none inside a row
  SegmentPlan segments;
  layers::SeqOptions options;
};

class RecordedStep {
 public:
  using Segments = std::vector<std::unique_ptr<Segment>>;
  /// Puts a step on the stream; `carried` are its buffers of states, `rate` is its learning rate,
  /// f64 [].
  using Step = std::function<void(std::span<Segments> pieces, const layers::ModelState& carried,
                                  const Tensor& rate)>;
  /// Records it for batches that are cut as those of the layout are. States that rows go on from
  /// lie in buffers of its own, of the same sizes as the base; `step` keeps there what later
  /// updates need. `memory`: of all steps of the run. `ahead`: steps that the host may be ahead of
  /// the device.
  /// @throws Error(Device) where the step cannot be recorded
  RecordedStep(const StepLayout& layout, Device& device, int ahead,
               std::shared_ptr<BlockPool> memory, const Step& step);

  void replay(std::span<const data::Batch> pieces, std::span<const PieceStarts> starts,
              double rate);
  /// Its buffers of carried states; positions are the host's.
  const layers::ModelState& carried() const { return carried_; }

 private:
  static constexpr std::size_t kNone = ~std::size_t{0};
  struct SegmentPlaces {
    std::size_t tokens = kNone, vectors = kNone, labels = kNone, count = kNone;
    std::unique_ptr<layers::StretchInputs> stretch;  // null: documents are not told
  };
  struct PiecePlaces {
    std::size_t entries = kNone;
    std::map<std::string, std::size_t> noise;
    std::vector<SegmentPlaces> segments;
  };
  PieceInputs inputs_of(const SegmentPlaces& places) const;
  void add_piece(const StepLayout& layout, const data::Batch& like, const PieceStarts* starts);
  void fill_states(std::size_t piece);
  void give(const PiecePlaces& places, const data::Batch& piece, const PieceStarts* starts);

  Device& device_;
  StepInputs inputs_;
  std::size_t rate_;
  SegmentPlan plan_;
  std::vector<PiecePlaces> places_;
  layers::ModelState carried_;
  std::vector<Segments> pieces_;  // while it is recorded
  std::unique_ptr<Graph> graph_;
};

}  // namespace ls::experiments
