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
  LS_CHECK(place_.begun.empty() || std::ssize(place_.begun) == rows, kShape,
           "{} rows of {} are said to have begun or not", place_.begun.size(), rows);
  LS_CHECK(place_.left.empty() || std::ssize(place_.left) == rows, kShape,
           "tokens behind the stretch are given for {} rows of {}", place_.left.size(), rows);
}

Stretch::Stretch(Index rows, Index tokens, StretchTensors tensors)
    : rows_(rows), tokens_(tokens), varies_(true), tensors_(std::move(tensors)) {
  place_.device = &tensors_->positions.device();
}

void Stretch::set_device(Device& device) {
  if (place_.device != &device) {
    LS_CHECK(!varies_, kDevice, "the stretch is told by tensors on {}, not on {}",
             place_.device->describe(), device.describe());
    place_.device = &device;
    tensors_.reset();
    turn_ = {};
  }
}

std::span<const Index> Stretch::starts(Index row) const {
  LS_CHECK(!varies_, kInternal, "documents of a stretch that only its tensors tell");
  return has_documents() ? std::span<const Index>(place_.documents[row]) : std::span<const Index>();
}

Index Stretch::seen(Index row) const {
  LS_CHECK(!varies_, kInternal, "tokens before a stretch that only its tensors tell");
  return place_.seen.empty() ? 0 : place_.seen[row];
}

bool Stretch::begun(Index row) const {
  return place_.begun.empty() ? seen(row) > 0 : place_.begun[static_cast<std::size_t>(row)];
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

Index Stretch::documents() const {
  Index count = 0;
  for (Index r = 0; r < rows_; ++r) {
    count += std::ssize(starts(r)) + (continues(r) ? 1 : 0);
  }
  return count;
}

StretchTensors Stretch::lay_out() const {
  std::vector<Index> offsets, goes_on, fresh;
  Tensor starts_at = Tensor::empty({rows_, tokens_}, DType::kI64),
         positions = Tensor::empty({rows_, tokens_}, DType::kI64);
  View<Index, 2> start(starts_at), position(positions);
  for (Index r = 0; r < rows_; ++r) {
    const std::span<const Index> begins = starts(r);
    const bool carried = continues(r);
    std::vector<Index> first(begins.begin(), begins.end());
    if (carried) {
      first.insert(first.begin(), 0);
    }
    goes_on.push_back(carried ? r : -1);
    fresh.push_back(carried && begun(r) ? r : rows_);
    for (std::size_t d = 0; d < first.size(); ++d) {
      const Index from = first[d], to = d + 1 < first.size() ? first[d + 1] : tokens_;
      LS_CHECK(from < to || (carried && d == 0 && to == tokens_), kShape,
               "document starts of row {} are not ascending within {} tokens", r, tokens_);
      offsets.push_back(r * tokens_ + from);
      for (Index t = from; t < to; ++t) {
        start(r, t) = carried && d == 0 ? -seen(r) : from;
        position(r, t) = t - start(r, t);
      }
    }
  }
  const Index capacity = std::max(place_.capacity, std::ssize(offsets));
  LS_CHECK(place_.capacity == 0 || capacity == place_.capacity, kShape,
           "{} documents where there is room for {}", std::ssize(offsets), place_.capacity);
  offsets.resize(static_cast<std::size_t>(capacity) + 1, rows_ * tokens_);
  fresh.push_back(rows_);
  Device& device = *place_.device;
  return {.positions = positions.to(device),
          .start = starts_at.to(device),
          .offsets = Tensor::from(offsets).to(device),
          .goes_on = Tensor::from(goes_on).to(device),
          .fresh = Tensor::from(fresh).to(device)};
}

const StretchTensors& Stretch::tensors() const {
  if (!tensors_) {
    tensors_ = lay_out();
  }
  return *tensors_;
}

Stretch Stretch::piece(Index begin, Index end) const {
  LS_CHECK(0 <= begin && begin <= end && end <= tokens_, kShape, "tokens [{}, {}) of {}", begin,
           end, tokens_);
  StretchPlace place{.first = first() + begin,
                     .after = place_.after + tokens_ - end,
                     .device = place_.device,
                     .direction = place_.direction};
  if (begin == 0) {
    place.begun = place_.begun;
  }
  for (Index r = 0; r < rows_; ++r) {
    Index before = seen(r) + begin, behind = tokens_ - end + left(r);
    std::vector<Index> inside;
    for (const Index s : starts(r)) {
      if (s < begin) {
        before = begin - s;
      } else if (s < end) {
        inside.push_back(s - begin);
      } else {
        behind = s - end;
        break;
      }
    }
    place.seen.push_back(before);
    place.left.push_back(behind);
    if (has_documents()) {
      place.documents.push_back(std::move(inside));
    }
  }
  return Stretch(rows_, end - begin, std::move(place));
}

Stretch Stretch::of_rows(Index begin, Index end) const {
  LS_CHECK(!varies_, kInternal, "rows of a stretch that only its tensors tell");
  LS_CHECK(0 <= begin && begin <= end && end <= rows_, kShape, "rows [{}, {}) of {}", begin, end,
           rows_);
  StretchPlace place = place_;
  const auto keep = [&](auto& by_row) {
    if (!by_row.empty()) {
      by_row = {by_row.begin() + begin, by_row.begin() + end};
    }
  };
  keep(place.documents);
  keep(place.seen);
  keep(place.left);
  keep(place.begun);
  return Stretch(end - begin, tokens_, std::move(place));
}

Stretch Stretch::turned() const {
  LS_CHECK(!varies_, kUnsupported,
           "a layer reads from the last token to the first in a step that is recorded for other "
           "documents; set graphs: false");
  StretchPlace place{
      .first = place_.after,
      .after = place_.first,
      .device = place_.device,
      .capacity = place_.capacity,
      .direction = direction() == Direction::kForward ? Direction::kBackward : Direction::kForward};
  for (Index r = 0; r < rows_; ++r) {
    const std::span<const Index> begins = starts(r);
    place.seen.push_back(left(r));
    place.left.push_back(continues(r) ? seen(r) : 0);
    if (!has_documents()) {
      continue;
    }
    std::vector<Index>& turned = place.documents.emplace_back();
    if (left(r) == 0 && tokens_ > 0) {  // its last document ends here, and others may come before
      turned.push_back(0);
    }
    for (auto s = begins.rbegin(); s != begins.rend(); ++s) {
      if (*s > 0) {
        turned.push_back(tokens_ - *s);
      }
    }
  }
  return Stretch(rows_, tokens_, std::move(place));
}

const Tensor& Stretch::turn() const {
  if (!turn_.defined()) {
    std::vector<Index> of;
    for (Index r = 0; r < rows_; ++r) {
      for (Index t = tokens_; t-- > 0;) {
        of.push_back(r * tokens_ + t);
      }
    }
    turn_ = of.empty() ? Tensor::zeros({0}, DType::kI64, *place_.device)
                       : Tensor::from(of).to(*place_.device);
  }
  return turn_;
}

}  // namespace ls::layers
