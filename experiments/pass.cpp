#include "experiments/pass.h"

#include <algorithm>
#include <optional>

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

/// [rows,n] of this rank's tokens of a segment of `length` as those of all ranks, [rows,length].
Tensor of_all_ranks(const Tensor& mine, Index length, const parallel::Mesh& mesh) {
  const Index rows = mine.size(0);
  Communicator& sequence = mesh.sequence();
  std::vector<Index> bytes;
  for (int r = 0; r < sequence.size(); ++r) {
    const auto [begin, end] = mesh.tokens(length, r);
    bytes.push_back(rows * (end - begin) * dtype_size(mine.dtype()));
  }
  const Tensor own = mine.contiguous();
  Tensor blocks = Tensor::empty({rows * length}, mine.dtype());
  sequence.all_gather(own.raw(), blocks.raw(), bytes, DType::kU8);
  Tensor all = Tensor::empty({rows, length}, mine.dtype());
  for (int r = 0; r < sequence.size(); ++r) {
    const auto [begin, end] = mesh.tokens(length, r);
    all.slice(1, begin, end)
        .copy_(blocks.slice(0, rows * begin, rows * end).view({rows, end - begin}));
  }
  return all;
}

/// What a pass over this rank's tokens of a segment is given.
struct OwnTokens {
  data::Batch batch;
  layers::StretchPlace place;

  OwnTokens(const data::Batch& segment, const layers::ModelState& state,
            const parallel::Mesh& mesh) {
    const auto [begin, end] = mesh.tokens(segment.length);
    batch = segment.stretch(begin, end);
    place = layers::Stretch(segment.rows, segment.length,
                            {.documents = segment.documents, .seen = state.position})
                .piece(begin, end)
                .place();
  }
  void tell(layers::SeqOptions& how) const {
    how.documents = place.documents.empty() ? nullptr : &place.documents;
    how.seen = &place.seen;
    how.left = &place.left;
    how.first = place.first;
    how.after = place.after;
  }
};

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
  const bool split = options.mesh && options.mesh->runner();
  Told told;
  if (ends.size() > 1) {
    told.predicted = Tensor::empty({batch.rows, batch.length}, DType::kI64);
    told.loss = Tensor::empty({batch.rows, batch.length}, DType::kF64);
  }
  Index begin = 0;
  for (const Index end : ends) {
    data::Batch piece = ends.size() > 1 ? segment_of(batch, begin, end) : batch;
    layers::SeqOptions how = sequence_options(scan, piece);
    how.length = batch.continues ? 0 : batch.length;  // not known of rows that go on
    std::optional<OwnTokens> own;
    if (split) {
      own.emplace(piece, state, *options.mesh);
      own->tell(how);
      how.runner = options.mesh->runner();
      piece = own->batch;
    }
    if (piece.rows > 0) {  // of no rows there is no state
      if (split) {
        how.incoming = &state;
      } else {
        how.taken = &state;
      }
      how.keep_states = options.keep || end < batch.length;
    }
    layers::SeqContext seq(piece.rows, piece.length, how);
    const ag::Var hidden = model.hidden(model_input(piece, device), seq);
    const layers::Model::Loss loss = model.loss(hidden, piece.labels.to(device));
    Tensor predicted = loss.predicted.to(cpu()).to(DType::kI64);
    Tensor per_token = loss.per_token.to(cpu()).to(DType::kF64);
    if (split) {
      predicted = of_all_ranks(predicted, end - begin, *options.mesh);
      per_token = of_all_ranks(per_token, end - begin, *options.mesh);
    }
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
