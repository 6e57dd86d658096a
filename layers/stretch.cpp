#include "layers/stretch.h"

#include <algorithm>

#include "core/tensor/view.h"

namespace ls::layers {

Stretch::Stretch(Index rows, Index tokens, StretchPlace place)
    : rows_(rows), tokens_(tokens), place_(std::move(place)) {
  LS_CHECK(place_.documents.empty() || std::ssize(place_.documents) == rows, kShape,
           "document starts are given for {} rows of {}", place_.documents.size(), rows);
  LS_CHECK(place_.seen.empty() || std::ssize(place_.seen) == rows, kShape,
           "carried states have {} rows, the batch has {}", place_.seen.size(), rows);
}

void Stretch::set_device(Device& device) {
  if (place_.device != &device) {
    place_.device = &device;
    positions_ = start_ = host_start_ = {};
    packing_.reset();
  }
}

std::span<const Index> Stretch::starts(Index row) const {
  return has_documents() ? std::span<const Index>(place_.documents[row]) : std::span<const Index>();
}

bool Stretch::all_have_seen(Index tokens) const {
  for (Index r = 0; r < rows_; ++r) {
    if (seen(r) < tokens) {
      return false;
    }
  }
  return true;
}

std::vector<Index> Stretch::seen_after() const {
  std::vector<Index> after;
  for (Index r = 0; r < rows_; ++r) {
    const auto begins = starts(r);
    after.push_back(begins.empty() ? seen(r) + tokens_ : tokens_ - begins.back());
  }
  return after;
}

void Stretch::lay_out() const {
  const auto packing = std::make_shared<Packing>();
  std::vector<Index> offsets;
  host_start_ = Tensor::empty({rows_, tokens_}, DType::kI64);
  View<Index, 2> start(host_start_);
  for (Index r = 0; r < rows_; ++r) {
    const std::span<const Index> begins = starts(r);
    const bool continues = begins.empty() || begins[0] != 0;
    std::vector<Index> first(begins.begin(), begins.end());
    if (continues) {
      first.insert(first.begin(), 0);
    }
    for (std::size_t d = 0; d < first.size(); ++d) {
      const Index from = first[d], to = d + 1 < first.size() ? first[d + 1] : tokens_;
      const bool carried = continues && d == 0;
      LS_CHECK(from < to || (carried && to == tokens_), kShape,
               "document starts of row {} are not ascending within {} tokens", r, tokens_);
      offsets.push_back(r * tokens_ + from);
      packing->first_of.push_back(carried ? r : -1);
      for (Index t = from; t < to; ++t) {
        start(r, t) = carried ? -seen(r) : from;
      }
    }
    packing->last_of.push_back(std::ssize(offsets) - 1);
  }
  offsets.push_back(rows_ * tokens_);
  start_ = host_start_.to(*place_.device);
  packing->offsets = Tensor::from(offsets).to(*place_.device);
  packing->begins = std::move(offsets);
  packing_ = packing;
}

const Stretch::Packing& Stretch::packing() const {
  if (!packing_) {
    lay_out();
  }
  return *packing_;
}

const Tensor& Stretch::document_start() const {
  packing();
  return start_;
}

const Tensor& Stretch::positions() const {
  if (!positions_.defined()) {
    packing();
    const View<const Index, 2> start(host_start_);
    Tensor positions = Tensor::empty({rows_, tokens_}, DType::kI64);
    View<Index, 2> position(positions);
    for (Index r = 0; r < rows_; ++r) {
      for (Index t = 0; t < tokens_; ++t) {
        position(r, t) = t - start(r, t);
      }
    }
    positions_ = positions.to(*place_.device);
  }
  return positions_;
}

Stretch Stretch::piece(Index begin, Index end) const {
  LS_CHECK(0 <= begin && begin <= end && end <= tokens_, kShape, "tokens [{}, {}) of {}", begin,
           end, tokens_);
  StretchPlace place{.first = first() + begin, .device = place_.device};
  for (Index r = 0; r < rows_; ++r) {
    Index before = seen(r) + begin;
    std::vector<Index> inside;
    for (const Index s : starts(r)) {
      if (s < begin) {
        before = begin - s;
      } else if (s < end) {
        inside.push_back(s - begin);
      }
    }
    place.seen.push_back(before);
    if (has_documents()) {
      place.documents.push_back(std::move(inside));
    }
  }
  return Stretch(rows_, end - begin, std::move(place));
}

}  // namespace ls::layers
