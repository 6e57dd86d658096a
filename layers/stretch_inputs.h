#pragma once
// What ops are told of a stretch, as inputs of a step that is recorded once.
#include "core/tensor/step_inputs.h"
#include "layers/stretch.h"

namespace ls::layers {

/// Buffers of StepInputs for documents, and positions in them, of [rows,tokens]; at most `capacity`
/// documents, of all rows together.
class StretchInputs {
 public:
  StretchInputs(StepInputs& inputs, Index rows, Index tokens, Index capacity);
  /// Where every step finds them.
  const StretchTensors& tensors() const { return tensors_; }
  Index capacity() const { return capacity_; }
  /// For the next step: the host's copies get what `place` says.
  /// @throws Error(Shape) on more documents than there is room for
  void give(StretchPlace place);

 private:
  StepInputs& inputs_;
  Index rows_, tokens_, capacity_;
  std::vector<std::size_t> numbers_;  // in StepInputs
  StretchTensors tensors_;
};

}  // namespace ls::layers
