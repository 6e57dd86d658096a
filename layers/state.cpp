#include "layers/state.h"

#include <numeric>

#include "autograd/functional.h"

namespace ls::layers {

void StateBytes::add(StatePart part, Index n) {
  switch (part) {
    case StatePart::kMatrix:
      matrix += n;
      break;
    case StatePart::kVector:
      vector += n;
      break;
    case StatePart::kConv:
      conv += n;
      break;
    case StatePart::kKeyValue:
      kv += n;
      break;
  }
}

StateBytes ModelState::bytes() const {
  StateBytes sum;
  for (const auto& [path, slot] : slots) {
    sum.add(slot.part, slot.value.value().bytes());
  }
  return sum;
}

ModelState ModelState::detached() const {
  return mapped([](const Tensor& t) { return t; });
}

ModelState ModelState::rows(const std::vector<Index>& index) const {
  ModelState out;
  for (const Index i : index) {
    out.position.push_back(i < 0 ? 0 : position.at(static_cast<std::size_t>(i)));
  }
  for (const auto& [path, slot] : slots) {
    out.slots.emplace(path, StateSlot{ag::take_rows(slot.value, index), slot.part});
  }
  return out;
}

ModelState ModelState::rows(Index begin, Index end) const {
  std::vector<Index> index(static_cast<std::size_t>(end - begin));
  std::iota(index.begin(), index.end(), begin);
  return rows(index);
}

ModelState ModelState::mapped(const std::function<Tensor(const Tensor&)>& f) const {
  ModelState out;
  for (const auto& [path, slot] : slots) {
    out.slots.emplace(path, StateSlot{ag::Var(f(slot.value.value())), slot.part});
  }
  out.position = f(Tensor::from(position)).to_vector<Index>();
  return out;
}

}  // namespace ls::layers
