#pragma once
// A model that goes on from its own state, a few tokens at a time.
#include "layers/model.h"

namespace ls::experiments {

/// Tokens per forward pass over what is there before the first step.
inline constexpr Index kPrefill = 1024;

/// Rows of equal length, all fed at once. The model must outlive it.
class Decoder {
 public:
  explicit Decoder(layers::Model& model, Index rows = 1) : model_(model), rows_(rows) {}
  /// Feeds tokens i64 [rows,T]; returns the scores of the token after the last, [rows,classes] in
  /// the model's type.
  Tensor feed(const Tensor& tokens);
  const layers::ModelState& state() const { return state_; }

 private:
  layers::Model& model_;
  Index rows_;
  layers::ModelState state_;  // without rows before the first token
};

}  // namespace ls::experiments
