#include "layers/state.h"

#include <algorithm>
#include <numeric>

#include "autograd/functional.h"

namespace ls::layers {

ag::Var seen_rows(const ag::Var& cache, const std::vector<Index>& position) {
  const Index rows = cache.size(1);
  const Index seen = position.empty() ? 0 : *std::max_element(position.begin(), position.end());
  return seen < rows ? ag::slice(cache, 1, rows - seen, rows) : cache;
}

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
  out.used = used;
  for (const Index i : index) {
    LS_CHECK(i < std::ssize(position), kShape, "row {} of states that have {}", i, position.size());
    out.position.push_back(i < 0 ? 0 : position[static_cast<std::size_t>(i)]);
  }
  for (const auto& [path, slot] : slots) {
    ag::Var taken = ag::take_rows(slot.value, index);
    if (slot.part == StatePart::kKeyValue && !used.defined()) {
      taken = seen_rows(taken, out.position);
    }
    out.slots.emplace(path, StateSlot{std::move(taken), slot.part, slot.grows, slot.most});
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
    out.slots.emplace(path,
                      StateSlot{ag::Var(f(slot.value.value())), slot.part, slot.grows, slot.most});
  }
  out.position = f(Tensor::from(position)).to_vector<Index>();
  out.used = used;
  return out;
}

}  // namespace ls::layers
