#include "layers/state.h"

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
  ModelState out;
  out.position = position;
  for (const auto& [path, slot] : slots) {
    out.slots.emplace(path, StateSlot{slot.value.detach(), slot.part});
  }
  return out;
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

}  // namespace ls::layers
