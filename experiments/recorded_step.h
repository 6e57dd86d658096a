#pragma once
// A training step as a graph: recorded once for the batches of one shape, replayed for each.
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor/graph.h"
#include "core/tensor/step_inputs.h"
#include "data/batcher.h"
#include "layers/model.h"
#include "layers/stretch_inputs.h"

namespace ls::experiments {

/// One piece of a batch where the model reads it.
struct PieceInputs {
  layers::ModelInput input;
  Tensor labels;  ///< i64 [rows,T]
  Tensor count;   ///< f64 []: of labels
};

/// All that its recording depends on, besides the config.
struct StepShape {
  Index rows = 0, length = 0;
  Index documents = 0;   ///< room for them in each piece; 0: none begins inside a row
  bool carried = false;  ///< rows go on from carried states
  auto operator<=>(const StepShape&) const = default;
};

class RecordedStep {
 public:
  /// Puts a step on the stream; `rate` is its learning rate, f64 [].
  using Step = std::function<void(std::span<const PieceInputs> pieces,
                                  std::span<const std::unique_ptr<layers::SeqContext>> contexts,
                                  const Tensor& rate)>;
  /// Records it for batches that are cut as `like` is, with at most so many documents a piece, or
  /// (0) none that begins inside a row. With options.incoming the states that rows go on from lie
  /// in buffers of its own, of the same sizes; `step` keeps there what they end in. `memory`: of
  /// all steps of the run. `ahead`: steps that the host may be ahead of the device.
  /// @throws Error(Device) where the step cannot be recorded
  RecordedStep(std::span<const data::Batch> like, Index documents,
               const layers::SeqOptions& options, Device& device, int ahead,
               std::shared_ptr<BlockPool> memory, const Step& step);

  /// `seen`: by row, of carried states.
  void replay(std::span<const data::Batch> pieces, double rate, const std::vector<Index>& seen);
  /// Its buffers of carried states; positions are the host's.
  const layers::ModelState& carried() const { return carried_; }

 private:
  static constexpr std::size_t kNone = ~std::size_t{0};
  struct Places {
    std::size_t tokens = kNone, vectors = kNone, labels = kNone, count = kNone;
  };
  Device& device_;
  StepInputs inputs_;
  std::size_t rate_;
  std::vector<Places> places_;
  layers::ModelState carried_;
  std::vector<std::unique_ptr<layers::StretchInputs>> stretches_;  // of pieces with documents
  std::vector<std::unique_ptr<layers::SeqContext>> contexts_;
  std::unique_ptr<Graph> graph_;
};

}  // namespace ls::experiments
