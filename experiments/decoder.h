#pragma once
// A model that goes on from its own state, a few tokens at a time.
#include <memory>

#include "layers/model.h"
#include "parallel/mesh.h"

namespace ls::experiments {

/// Tokens per forward pass over what is there before the first step.
inline constexpr Index kPrefill = 1024;

class RecordedDecoding;

/// Rows of equal length, all fed at once. The model must outlive it. On a device that records
/// graphs a step of one token is recorded when the state has come to its size, and replayed from
/// then on: caches that grow are buffers with room, and position and states stay on the device.
/// Where it cannot be recorded, which a warning says, or `graphs` is false, kernels are launched
/// one by one, with the same digits.
class Decoder {
 public:
  explicit Decoder(layers::Model& model, Index rows = 1, bool graphs = true);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  /// So many tokens will be fed in all: growing caches get room for them at once, and rotary
  /// positions that depend on the length are made for it. More may be fed: then caches are
  /// enlarged, which a line in the log says.
  void reserve(Index tokens) { expected_ = tokens; }
  /// Feeds tokens i64 [rows,T], of the host or where the model is; returns the scores of the token
  /// after the last, [rows,classes] in the model's type, to be used before the next call.
  Tensor feed(const Tensor& tokens);
  /// The same of a first part (a prompt) whose tokens, given to every rank, are spread over the
  /// ranks of a sequence; before steps of one token. State and scores are the same on all.
  Tensor feed(const Tensor& tokens, const parallel::Mesh& mesh);
  const layers::ModelState& state() const { return state_; }
  /// Tokens whose step was a recorded one.
  Index replays() const { return replays_; }

 private:
  Tensor run(const Tensor& tokens, const layers::SeqOptions& options);
  friend class RecordedDecoding;

  layers::Model& model_;
  Index rows_, fed_ = 0, expected_ = 0, replays_ = 0;
  bool graphs_;
  layers::ModelState state_;  // without rows before the first token
  std::unique_ptr<RecordedDecoding> recorded_;
};

}  // namespace ls::experiments
