#include "layers/state.h"

#include <algorithm>
#include <numeric>

#include "autograd/call.h"
#include "autograd/functional.h"
#include "core/ops/gather_rows/gather_rows.h"

namespace ls::layers {

ag::Var seen_rows(const ag::Var& cache, const std::vector<Index>& position) {
  const Index rows = cache.size(1);
  const Index seen = position.empty() ? 0 : *std::max_element(position.begin(), position.end());
  return seen < rows ? ag::slice(cache, 1, rows - seen, rows) : cache;
}

ag::Var entries(const ag::Var& states, const Tensor& index) {
  Shape shape = states.shape();
  const ag::Var flat =
      ag::reshape(states, {shape[0], shape.numel() / std::max<Index>(1, shape[0])});
  shape[0] = index.numel();
  return ag::reshape(ag::call<ops::GatherRows>({.x = flat, .index = ag::Var(index)}, {}).y, shape);
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
  ModelState out = *this;
  for (auto& [path, slot] : out.slots) {
    slot.value = slot.value.detach();
  }
  return out;
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
    StateSlot& to = out.slots.emplace(path, slot).first->second;
    to.value = std::move(taken);
  }
  return out;
}

ModelState ModelState::rows(Index begin, Index end) const {
  std::vector<Index> index(static_cast<std::size_t>(end - begin));
  std::iota(index.begin(), index.end(), begin);
  return rows(index);
}

ModelState ModelState::stacked(const std::vector<ModelState>& parts) {
  ModelState out;
  for (const ModelState& part : parts) {
    out.position.insert(out.position.end(), part.position.begin(), part.position.end());
  }
  for (const auto& [path, first] : parts.empty() ? out.slots : parts.front().slots) {
    Shape shape = first.value.shape();
    const bool cache = first.part == StatePart::kKeyValue;
    shape[0] = 0;
    for (const ModelState& part : parts) {
      const ag::Var& rows = part.slots.at(path).value;
      shape[0] += rows.size(0);
      if (cache) {
        shape[1] = std::max(shape[1], rows.size(1));
      }
    }
    Tensor all = Tensor::zeros(shape, first.value.dtype(), first.value.value().device());
    Index at = 0;
    for (const ModelState& part : parts) {
      const Tensor& rows = part.slots.at(path).value.value();
      Tensor place = all.slice(0, at, at + rows.size(0));
      at += rows.size(0);
      (cache ? place.slice(1, shape[1] - rows.size(1), shape[1]) : place).copy_(rows);
    }
    out.slots.emplace(path, first).first->second.value = ag::Var(all);
  }
  return out;
}

ModelState ModelState::mapped(const std::function<Tensor(const Tensor&)>& f) const {
  ModelState out;
  for (const auto& [path, slot] : slots) {
    out.slots.emplace(path, slot).first->second.value = ag::Var(f(slot.value.value()));
  }
  out.position = f(Tensor::from(position)).to_vector<Index>();
  out.used = used;
  return out;
}

}  // namespace ls::layers
