#include "experiments/recorded_step.h"

namespace ls::experiments {

RecordedStep::RecordedStep(std::span<const data::Batch> like, Index documents,
                           const layers::SeqOptions& options, Device& device, int ahead,
                           std::shared_ptr<BlockPool> memory, const Step& step)
    : device_(device), inputs_(device, ahead), rate_(inputs_.add({}, DType::kF64)) {
  if (options.incoming) {
    for (const auto& [path, slot] : options.incoming->slots) {
      carried_.slots.emplace(path, layers::StateSlot{ag::Var(slot.value.value().clone()), slot.part,
                                                     slot.grows, slot.most});
    }
  }
  const auto place = [&](const Tensor& t) {
    return t.defined() ? inputs_.add(t.shape(), t.dtype()) : kNone;
  };
  const auto buffer = [&](std::size_t i) { return i == kNone ? Tensor() : inputs_.buffer(i); };
  for (const data::Batch& piece : like) {
    places_.push_back({.tokens = place(piece.tokens),
                       .vectors = place(piece.vectors),
                       .labels = place(piece.labels),
                       .count = inputs_.add({}, DType::kF64)});
    layers::SeqOptions told = options;
    told.incoming = options.incoming ? &carried_ : nullptr;
    if (documents > 0) {
      stretches_.push_back(
          std::make_unique<layers::StretchInputs>(inputs_, piece.rows, piece.length, documents));
      told.told = &stretches_.back()->tensors();
    }
    // What it copies to the device is there before the recording.
    contexts_.push_back(std::make_unique<layers::SeqContext>(piece.rows, piece.length, told));
    contexts_.back()->set_device(device);
    contexts_.back()->positions();
  }
  std::vector<PieceInputs> pieces;
  for (const Places& p : places_) {
    pieces.push_back(
        {{buffer(p.tokens), buffer(p.vectors)}, inputs_.buffer(p.labels), inputs_.buffer(p.count)});
  }
  graph_ = std::make_unique<Graph>(current_stream(device), std::move(memory),
                                   [&] { step(pieces, contexts_, inputs_.buffer(rate_)); });
}

void RecordedStep::replay(std::span<const data::Batch> pieces, double rate,
                          const std::vector<Index>& seen) {
  const auto give = [&](std::size_t input, const Tensor& t) {
    if (input != kNone) {
      inputs_.next(input).copy_(t);
    }
  };
  for (std::size_t i = 0; i < places_.size(); ++i) {
    give(places_[i].tokens, pieces[i].tokens);
    give(places_[i].vectors, pieces[i].vectors);
    give(places_[i].labels, pieces[i].labels);
    inputs_.next(places_[i].count).fill_(static_cast<double>(pieces[i].labelled));
    if (!stretches_.empty()) {
      stretches_[i]->give({.documents = pieces[i].documents, .seen = seen});
    }
  }
  inputs_.next(rate_).fill_(rate);
  inputs_.send();
  graph_->replay(current_stream(device_));
}

}  // namespace ls::experiments
