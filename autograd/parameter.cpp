#include "autograd/parameter.h"

#include "core/tensor/flat.h"

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

void ParameterSet::flatten() {
  for (const auto& [begin, end] : blocks()) {
    std::vector<Shape> shapes;
    for (std::size_t i = begin; i < end; ++i) {
      shapes.push_back(items_[i].var.shape());
    }
    const DType dtype = items_[begin].var.dtype();
    const FlatBuffer values(shapes, dtype, device()), grads(shapes, dtype, device());
    for (std::size_t i = begin; i < end; ++i) {
      Tensor value = values.views()[i - begin];
      value.copy_(items_[i].var.value());
      items_[i].var.mutable_value() = value;
      items_[i].var.set_grad_place(grads.views()[i - begin]);
    }
  }
}

}  // namespace ls::ag
