#include "experiments/pass.h"

#include <algorithm>

#include "autograd/tape.h"
#include "experiments/model_io.h"

namespace ls::experiments {
namespace {

/// Ends of the segments.
std::vector<Index> ends_of(Index length, const PassOptions& options) {
  std::vector<Index> ends = options.stops;
  const Index step = options.segment > 0 ? options.segment : std::max<Index>(1, length);
  for (Index end = step; end < length; end += step) {
    ends.push_back(end);
  }
  std::erase_if(ends, [&](Index end) { return end <= 0 || end >= length; });
  ends.push_back(length);
  std::ranges::sort(ends);
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  return ends;
}

}  // namespace

data::Batch segment_of(const data::Batch& batch, Index begin, Index end) {
  data::Batch out = batch.stretch(begin, end);
  out.documents = batch.documents;
  bool any = false;
  for (std::vector<Index>& starts : out.documents) {
    std::erase_if(starts, [&](Index s) { return s < begin || s >= end; });
    for (Index& s : starts) {
      s -= begin;
    }
    any |= !starts.empty();
  }
  if (!any) {
    out.documents.clear();
  }
  return out;
}

Told pass(layers::Model& model, const data::Batch& batch, const ScanConfig& scan,
          layers::ModelState& state, const PassOptions& options) {
  const ag::NoGrad no_grad;
  Device& device = model.parameters().device();
  const std::vector<Index> ends =
      model.causal() ? ends_of(batch.length, options) : std::vector<Index>{batch.length};
  Told told;
  if (ends.size() > 1) {
    told.predicted = Tensor::empty({batch.rows, batch.length}, DType::kI64);
    told.loss = Tensor::empty({batch.rows, batch.length}, DType::kF64);
  }
  Index begin = 0;
  for (const Index end : ends) {
    const data::Batch piece = ends.size() > 1 ? segment_of(batch, begin, end) : batch;
    layers::SeqOptions how = sequence_options(scan, piece);
    how.length = batch.length;
    if (piece.rows > 0) {  // of no rows there is no state
      how.taken = &state;
      how.keep_states = options.keep || end < batch.length;
    }
    layers::SeqContext seq(piece.rows, piece.length, how);
    const ag::Var hidden = model.hidden(model_input(piece, device), seq);
    const layers::Model::Loss loss = model.loss(hidden, piece.labels.to(device));
    const Tensor predicted = loss.predicted.to(cpu()).to(DType::kI64);
    const Tensor per_token = loss.per_token.to(cpu()).to(DType::kF64);
    if (how.keep_states) {
      state = std::move(seq.outgoing());
    }
    if (options.watch) {
      options.watch({begin, end, hidden.value(), how.keep_states ? &state : nullptr});
    }
    if (ends.size() == 1) {
      return {predicted, per_token};
    }
    told.predicted.slice(1, begin, end).copy_(predicted);
    told.loss.slice(1, begin, end).copy_(per_token);
    begin = end;
  }
  return told;
}

}  // namespace ls::experiments
