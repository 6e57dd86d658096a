#include "experiments/segments.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "autograd/tape.h"
#include "experiments/model_io.h"

namespace ls::experiments {
namespace {

/// The next segment begins where this one ended.
void hand_on(const layers::ModelState& states, bool gradients, Segment& next) {
  for (const auto& [path, slot] : states.slots) {
    layers::StateSlot& to = next.incoming.slots.insert_or_assign(path, slot).first->second;
    const Tensor& value = slot.value.value();
    to.value = gradients ? ag::Var::leaf(value) : ag::Var(value);
  }
}

}  // namespace

std::vector<layers::StretchPlace> segment_places(const layers::StretchPlace& place, Index rows,
                                                 Index tokens, Index count) {
  if (count == 1) {
    return {place};
  }
  const layers::Stretch whole(rows, tokens, place);
  const Index each = tokens / count;
  std::vector<layers::StretchPlace> out;
  for (Index s = 0; s < count; ++s) {
    out.push_back(whole.piece(s * each, (s + 1) * each).place());
  }
  return out;
}

std::unique_ptr<Segment> make_segment(Index rows, Index tokens, PieceInputs inputs, bool goes_on,
                                      bool looks_ahead, layers::SeqOptions options) {
  auto out = std::make_unique<Segment>();
  out->inputs = std::move(inputs);
  out->incoming.position = options.seen ? *options.seen : std::vector<Index>(rows, 0);
  options.incoming = goes_on ? &out->incoming : nullptr;
  out->seq = std::make_unique<layers::SeqContext>(rows, tokens, options);
  if (looks_ahead) {
    out->ahead = std::make_unique<layers::SeqContext>(rows, tokens, options);
  }
  return out;
}

std::vector<std::unique_ptr<Segment>> segments_of(
    const data::Batch& piece, const PieceStarts* starts, layers::ModelState states,
    const SegmentPlan& plan, layers::SeqOptions options, bool told, Device& device) {
  const Index n = plan.count, each = piece.length / n;
  options.length = plan.length_of(piece.length);
  std::vector<layers::StretchPlace> places =
      segment_places(starts ? starts->place : layers::StretchPlace{.documents = piece.documents},
                     piece.rows, piece.length, n);
  std::vector<std::unique_ptr<Segment>> out;
  for (Index s = 0; s < n; ++s) {
    layers::StretchPlace& place = places[static_cast<std::size_t>(s)];
    Index begin = 0, end = each;
    if (plan.mesh) {
      std::tie(begin, end) = plan.mesh->tokens(each);
      place = layers::Stretch(piece.rows, each, std::move(place)).piece(begin, end).place();
      options.runner = plan.mesh->runner();
    }
    const bool whole = n == 1 && end - begin == piece.length;
    const data::Batch part = whole ? piece : piece.stretch(s * each + begin, s * each + end);
    const bool goes_on = s > 0 || !states.slots.empty();
    if (told && goes_on) {
      place.documents.resize(static_cast<std::size_t>(piece.rows));
    }
    options.documents = place.documents.empty() ? nullptr : &place.documents;
    options.seen = place.seen.empty() ? nullptr : &place.seen;
    options.begun = place.begun.empty() ? nullptr : &place.begun;
    options.left = place.left.empty() ? nullptr : &place.left;
    options.first = place.first;
    options.after = place.after;
    out.push_back(
        make_segment(piece.rows, part.length,
                     {model_input(part, device), part.labels.to(device),
                      Tensor::full({}, DType::kF64, static_cast<double>(part.labelled), device)},
                     goes_on, plan.looks_ahead(s), options));
    out.back()->labelled = part.labelled > 0;
  }
  out.front()->incoming.slots = std::move(states.slots);
  return out;
}

layers::ModelState run_segments(layers::Model& model,
                                std::vector<std::unique_ptr<Segment>>& segments,
                                const SegmentPlan& plan, const SegmentPass& pass) {
  const std::size_t n = segments.size(), reach = static_cast<std::size_t>(plan.reach);
  layers::ModelState end;
  for (std::size_t from = 0; from < n; from += reach) {
    const std::size_t to = std::min(n, from + reach);
    for (std::size_t s = from; s + 1 < to; ++s) {
      const ag::NoGrad no_grad;
      model.hidden(segments[s]->inputs.input, *segments[s]->ahead);
      hand_on(segments[s]->ahead->outgoing(), true, *segments[s + 1]);
      segments[s]->ahead.reset();
    }
    StateGradients gradients;
    for (std::size_t s = to; s-- > from;) {
      gradients = pass(*segments[s], gradients);
      if (s + 1 == to) {
        end = segments[s]->seq->outgoing().detached();
      }
      segments[s]->seq.reset();
      segments[s]->incoming.slots.clear();
    }
    if (to < n) {
      hand_on(end, false, *segments[to]);
    }
  }
  return end;
}

}  // namespace ls::experiments
