#include "autograd/parameter.h"

#include <algorithm>

namespace ls::ag {
namespace {

/// "blocks.3" of "blocks.3.mixer.q.weight", "head" of "head.weight".
std::string_view block_of(std::string_view name) {
  std::size_t end = name.find('.');
  if (name.substr(0, end) == "blocks") {
    end = name.find('.', end + 1);
  }
  return name.substr(0, end);
}

}  // namespace

void ParameterSet::to(Device& device) {
  copies_.clear();
  flat_.clear();
  for (Parameter& p : items_) {
    p.var.mutable_value() = p.var.value().to(device);
    p.var.set_grad_place({});
  }
  for (Var& c : constants_) {
    c.mutable_value() = c.value().to(device);
  }
}

std::vector<std::pair<std::size_t, std::size_t>> ParameterSet::blocks() const {
  std::vector<std::pair<std::size_t, std::size_t>> all;
  for (std::size_t i = 0; i < items_.size(); ++i) {
    if (all.empty() || block_of(items_[i].name) != block_of(items_[all.back().first].name) ||
        items_[i].var.dtype() != items_[all.back().first].var.dtype()) {
      all.emplace_back(i, i);
    }
    all.back().second = i + 1;
  }
  return all;
}

FlatBuffer ParameterSet::flat_like(const std::pair<std::size_t, std::size_t>& block) const {
  return {shapes_of(block), items_[block.first].var.dtype(), device(), shards_};
}

void ParameterSet::flatten(Index shards) {
  shards_ = shards;
  copies_.clear();
  flat_.clear();
  for (const auto& block : blocks()) {
    const FlatBuffer values = flat_like(block), grads = flat_like(block);
    copies_.push_back(std::make_shared<ConvertedCopy>(values.whole(), true));
    for (std::size_t i = block.first; i < block.second; ++i) {
      Tensor value = values.views()[i - block.first];
      Var& var = items_[i].var;
      value.copy_(var.value());
      var.mutable_value() = value;
      var.set_grad_place(grads.views()[i - block.first]);
      var.data()->copy = copies_.back();
    }
    flat_.push_back({values, grads});
  }
}

void ParameterSet::keep_shards(std::shared_ptr<ShardExchange> exchange) {
  LS_CHECK(exchange->ranks() == shards_ && !flat_.empty(), kInternal,
           "shards of {} ranks of blocks that fall into {}", exchange->ranks(), shards_);
  held_bytes_ = std::make_shared<HeldBytes>();
  const auto all = blocks();
  for (std::size_t b = 0; b < all.size(); ++b) {
    std::vector<Var> vars;
    for (std::size_t i = all[b].first; i < all[b].second; ++i) {
      vars.push_back(items_[i].var);
    }
    held_.push_back(std::make_shared<HeldBlock>(flat_[b].values, flat_[b].grads, std::move(vars),
                                                copies_[b], exchange, held_bytes_));
  }
}

Hold ParameterSet::hold(std::string_view block, GradientHold gradients) const {
  std::vector<std::shared_ptr<HeldBlock>> some;
  const auto all = held_.empty() ? decltype(blocks())() : blocks();
  for (std::size_t b = 0; b < all.size(); ++b) {
    if (block_of(items_[all[b].first].name) == block) {
      some.push_back(held_[b]);
    }
  }
  return {std::move(some), gradients};
}

Hold ParameterSet::hold_all() const {
  return {held_, GradientHold::kBackward};
}

void ParameterSet::keep_values() {
  for (const std::shared_ptr<HeldBlock>& block : held_) {
    block->keep_values();
  }
}

Index ParameterSet::shard_size(const std::pair<std::size_t, std::size_t>& block) const {
  return FlatPlaces(shapes_of(block), shards_).total / shards_;
}

std::vector<Shape> ParameterSet::shapes_of(const std::pair<std::size_t, std::size_t>& block) const {
  std::vector<Shape> shapes;
  for (std::size_t i = block.first; i < block.second; ++i) {
    shapes.push_back(items_[i].var.shape());
  }
  return shapes;
}

std::vector<ShardPart> ParameterSet::parts_of_shard(
    const std::pair<std::size_t, std::size_t>& block, int rank) const {
  const std::vector<Shape> shapes = shapes_of(block);
  const FlatPlaces places(shapes, shards_);
  const Index size = places.total / shards_, first = rank * size;
  std::vector<ShardPart> parts;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const Index from = std::max(places.begins[i], first);
    const Index to = std::min(places.begins[i] + shapes[i].numel(), first + size);
    ShardPart part{.parameter = block.first + i};
    if (from < to) {
      part.begin = from - places.begins[i];
      part.count = to - from;
      part.at = from - first;
    }
    parts.push_back(part);
  }
  return parts;
}

void ParameterSet::refresh_copies() {
  for (const std::shared_ptr<ConvertedCopy>& copy : copies_) {
    copy->refresh();
  }
}

void ParameterSet::keep_copies() {
  if (!copies_.empty()) {
    return;
  }
  for (Parameter& p : items_) {
    copies_.push_back(std::make_shared<ConvertedCopy>(p.var.value(), true));
    p.var.data()->copy = copies_.back();
  }
}

void ParameterSet::note_fresh_copies() {
  for (const std::shared_ptr<ConvertedCopy>& copy : copies_) {
    copy->note_fresh();
  }
}

}  // namespace ls::ag
