#include "experiments/recorded_step.h"

namespace ls::experiments {

RecordedStep::RecordedStep(const StepLayout& layout, Device& device, int ahead,
                           std::shared_ptr<BlockPool> memory, const Step& step)
    : device_(device),
      inputs_(device, ahead),
      rate_(inputs_.add({}, DType::kF64)),
      plan_(layout.segments) {
  if (!layout.starts.empty()) {
    for (const auto& [path, slot] : layout.base->slots) {
      carried_.slots.emplace(path, slot).first->second.value = ag::Var(slot.value.value().clone());
    }
  }
  for (std::size_t i = 0; i < layout.pieces.size(); ++i) {
    add_piece(layout, layout.pieces[i], layout.starts.empty() ? nullptr : &layout.starts[i]);
  }
  graph_ = std::make_unique<Graph>(current_stream(device), std::move(memory), [&] {
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      fill_states(i);
    }
    step(pieces_, carried_, inputs_.buffer(rate_));
  });
  pieces_.clear();
}

PieceInputs RecordedStep::inputs_of(const SegmentPlaces& p) const {
  const auto buffer = [&](std::size_t i) { return i == kNone ? Tensor() : inputs_.buffer(i); };
  return {{buffer(p.tokens), buffer(p.vectors)}, buffer(p.labels), buffer(p.count)};
}

void RecordedStep::add_piece(const StepLayout& layout, const data::Batch& like,
                             const PieceStarts* starts) {
  PiecePlaces& places = places_.emplace_back();
  Segments& segments = pieces_.emplace_back();
  if (starts && !carried_.slots.empty()) {
    places.entries = inputs_.add({like.rows}, DType::kI64);
    for (const auto& [path, noise] : starts->noise) {
      places.noise.emplace(path, inputs_.add(noise.shape(), noise.dtype()));
    }
  }
  const Index each = like.length / plan_.count;
  for (Index s = 0; s < plan_.count; ++s) {
    const data::Batch part = plan_.count == 1 ? like : like.stretch(s * each, (s + 1) * each);
    const auto place = [&](const Tensor& t) {
      return t.defined() ? inputs_.add(t.shape(), t.dtype()) : kNone;
    };
    SegmentPlaces& at = places.segments.emplace_back();
    at.tokens = place(part.tokens);
    at.vectors = place(part.vectors);
    at.labels = place(part.labels);
    at.count = inputs_.add({}, DType::kF64);
    const bool goes_on = s > 0 || places.entries != kNone;
    layers::SeqOptions options = layout.options;
    options.length = plan_.length_of(like.length);
    if (layout.documents > 0 || goes_on) {
      // Cut rows may go on in every segment beside the documents that begin there.
      at.stretch = std::make_unique<layers::StretchInputs>(
          inputs_, like.rows, each, layout.documents + (plan_.count > 1 ? like.rows : 0));
      options.told = &at.stretch->tensors();
    }
    segments.push_back(
        make_segment(like.rows, each, inputs_of(at), goes_on, plan_.looks_ahead(s), options));
    // What they copy to the device is there before the recording.
    for (layers::SeqContext* const seq :
         {segments.back()->seq.get(), segments.back()->ahead.get()}) {
      if (seq) {
        seq->set_device(device_);
        seq->positions();
      }
    }
  }
}

void RecordedStep::fill_states(std::size_t piece) {
  const PiecePlaces& places = places_[piece];
  if (places.entries == kNone) {
    return;
  }
  std::map<std::string, Tensor> noise;
  for (const auto& [path, input] : places.noise) {
    noise.emplace(path, inputs_.buffer(input));
  }
  pieces_[piece].front()->incoming.slots =
      FirstStates::of(carried_, inputs_.buffer(places.entries), noise).slots;
}

void RecordedStep::give(const PiecePlaces& places, const data::Batch& piece,
                        const PieceStarts* starts) {
  const auto put = [&](std::size_t input, const Tensor& t) {
    if (input != kNone) {
      inputs_.next(input).copy_(t);
    }
  };
  if (places.entries != kNone) {
    put(places.entries, Tensor::from(starts->entries));
    for (const auto& [path, input] : places.noise) {
      put(input, starts->noise.at(path));
    }
  }
  const std::vector<layers::StretchPlace> at =
      segment_places(starts ? starts->place : layers::StretchPlace{.documents = piece.documents},
                     piece.rows, piece.length, plan_.count);
  const Index each = piece.length / plan_.count;
  for (std::size_t s = 0; s < places.segments.size(); ++s) {
    const SegmentPlaces& to = places.segments[s];
    const Index from = static_cast<Index>(s) * each;
    const data::Batch part = plan_.count == 1 ? piece : piece.stretch(from, from + each);
    put(to.tokens, part.tokens);
    put(to.vectors, part.vectors);
    put(to.labels, part.labels);
    inputs_.next(to.count).fill_(static_cast<double>(part.labelled));
    if (to.stretch) {
      to.stretch->give(at[s]);
    }
  }
}

void RecordedStep::replay(std::span<const data::Batch> pieces, std::span<const PieceStarts> starts,
                          double rate) {
  for (std::size_t i = 0; i < places_.size(); ++i) {
    give(places_[i], pieces[i], starts.empty() ? nullptr : &starts[i]);
  }
  inputs_.next(rate_).fill_(rate);
  inputs_.send();
  graph_->replay(current_stream(device_));
}

}  // namespace ls::experiments
