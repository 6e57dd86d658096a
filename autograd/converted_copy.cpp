#include "autograd/converted_copy.h"

namespace ls::ag {

Tensor ConvertedCopy::of(const Tensor& leaf, DType dtype) {
  const bool made = to_.defined() && to_.dtype() == dtype;
  if (current_stream(from_.device()).capturing() && !(made && kept_ && !stale())) {
    return leaf.to(dtype);
  }
  const bool seen = !kept_ && to_.storage_use_count() > 1;  // by somebody who had it before
  if (!made || (stale() && seen)) {
    to_ = Tensor::empty(from_.shape(), dtype, from_.device());
  }
  if (!made || stale()) {
    to_.copy_(from_);
    note_fresh();
  }
  const Index begin = leaf.layout().offset() - from_.layout().offset();
  return to_.view({to_.numel()}).slice(0, begin, begin + leaf.numel()).view(leaf.shape());
}

Tensor ConvertedCopy::drop() {
  if (to_.defined() && !to_.storage()->dropped()) {
    to_.storage()->drop();
  }
  return to_;
}

Tensor ConvertedCopy::restore() {
  if (to_.defined()) {
    const std::uint64_t version = to_.version();
    to_.storage()->restore(current_stream(to_.device()));
    to_.copy_(from_);
    if (!stale()) {
      to_.storage()->set_version(version);
    }
    note_fresh();
  }
  return to_;
}

void ConvertedCopy::refresh() {
  if (to_.defined() && !to_.storage()->dropped() && stale()) {
    to_.copy_(from_);
    note_fresh();
  }
}

}  // namespace ls::ag
