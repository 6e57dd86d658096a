#pragma once
// Loops of elementwise rules over the pool, for f32 and f64.
#include "core/base/error.h"
#include "core/base/parallel_for.h"
#include "optim/optimizer.h"

namespace ls::optim {

/// fn(T* value, const T* grad, T* const* state, begin, end) over pieces of the parameter.
template <class Fn>
void for_elements(ParamSlice& p, std::span<Tensor> state, Fn&& fn) {
  const auto run = [&]<class T>() {
    T* value = p.value.data<T>();
    const T* grad = std::as_const(p.grad).data<T>();
    T* s[4] = {};
    for (std::size_t i = 0; i < state.size(); ++i) {
      s[i] = state[i].data<T>();
    }
    parallel_for(p.value.numel(), 1 << 12, [&](Index b, Index e) { fn(value, grad, s, b, e); });
  };
  LS_CHECK(p.value.is_contiguous() && p.grad.is_contiguous() && p.value.dtype() == p.grad.dtype(),
           kInternal, "an update of {} by {}", p.value.describe(), p.grad.describe());
  if (p.value.dtype() == DType::kF64) {
    run.template operator()<double>();
  } else {
    run.template operator()<float>();
  }
  p.value.bump_version();
}

}  // namespace ls::optim
