#include "autograd/parameter.h"

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
  std::vector<Shape> shapes;
  for (std::size_t i = block.first; i < block.second; ++i) {
    shapes.push_back(items_[i].var.shape());
  }
  return {shapes, items_[block.first].var.dtype(), device(), shards_};
}

void ParameterSet::flatten(Index shards) {
  shards_ = shards;
  copies_.clear();
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
  }
}

void ParameterSet::refresh_copies() {
  for (const std::shared_ptr<ConvertedCopy>& copy : copies_) {
    copy->refresh();
  }
}

void ParameterSet::note_fresh_copies() {
  for (const std::shared_ptr<ConvertedCopy>& copy : copies_) {
    copy->note_fresh();
  }
}

}  // namespace ls::ag
