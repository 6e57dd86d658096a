#include "layers/stretch_inputs.h"

#include <array>

namespace ls::layers {
namespace {

constexpr std::array kAll = {&StretchTensors::positions, &StretchTensors::start,
                             &StretchTensors::offsets, &StretchTensors::goes_on,
                             &StretchTensors::fresh};

}  // namespace

StretchInputs::StretchInputs(StepInputs& inputs, Index rows, Index tokens, Index capacity)
    : inputs_(inputs), rows_(rows), tokens_(tokens), capacity_(std::max(rows, capacity)) {
  const std::array<Shape, kAll.size()> shapes = {
      Shape{rows, tokens}, {rows, tokens}, {capacity_ + 1}, {rows}, {rows + 1}};
  for (std::size_t i = 0; i < kAll.size(); ++i) {
    numbers_.push_back(inputs.add(shapes[i], DType::kI64));
    tensors_.*kAll[i] = inputs.buffer(numbers_.back());
  }
}

void StretchInputs::give(StretchPlace place) {
  place.capacity = capacity_;
  place.device = &cpu();
  const Stretch stretch(rows_, tokens_, std::move(place));
  for (std::size_t i = 0; i < kAll.size(); ++i) {
    inputs_.next(numbers_[i]).copy_(stretch.tensors().*kAll[i]);
  }
}

}  // namespace ls::layers
