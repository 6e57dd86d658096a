#pragma once
// One batch through a model, a segment of its tokens at a time, with the state carried: beside the
// batch itself and what is told of each token, memory does not grow with the length where states do
// not.
#include <functional>
#include <vector>

#include "data/batcher.h"
#include "experiments/run_config.h"
#include "parallel/mesh.h"

namespace ls::experiments {

/// What one forward pass gave.
struct PassSegment {
  Index begin = 0, end = 0;         ///< tokens of each row
  const Tensor& hidden;             ///< [rows, end - begin, D], where the model is; with a mesh
                                    ///< this rank's tokens of them
  const layers::ModelState* state;  ///< after them; null where it was not kept
};

struct PassOptions {
  Index segment = 0;         ///< tokens per forward pass; 0: all of them
  std::vector<Index> stops;  ///< ascending: a segment ends there too
  bool keep = false;         ///< states are kept after the last token too
  /// Whose ranks have the same rows, and each its tokens of every segment; null: this rank alone.
  const parallel::Mesh* mesh = nullptr;
  std::function<void(const PassSegment&)> watch;
};

/// Of every token of a batch, on the host.
struct Told {
  Tensor predicted;  ///< i64 [rows,T]: most likely class where there is a label
  Tensor loss;       ///< f64 [rows,T]: nats, 0 where there is no label
};

/// A model whose outputs depend on later tokens is run over all of them at once. With a mesh every
/// rank of a sequence hears of all its tokens.
/// @param state  what the rows go on from, and where `keep` is set their states in the end
Told pass(layers::Model& model, const data::Batch& batch, const ScanConfig& scan,
          layers::ModelState& state, const PassOptions& options);

/// Tokens [begin, end) of every row, with the documents that begin there.
data::Batch segment_of(const data::Batch& batch, Index begin, Index end);

}  // namespace ls::experiments
