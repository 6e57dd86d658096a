#pragma once
// Elements of contiguous operands and results.
#include <cstring>

#include "core/tensor/tensor_view.h"

namespace ls::ops::common {

/// Null where the operand is absent.
template <class T, class S>
const T* elements(const LaidOut<S>& t) {
  return static_cast<const S&>(t).defined() ? t.template data<T>() : nullptr;
}
template <class T, class S>
T* elements(LaidOut<S>& t) {
  return static_cast<const S&>(t).defined() ? t.template data<T>() : nullptr;
}

/// A contiguous result, all zero.
template <class S>
S& zeroed(LaidOut<S>& t) {
  S& self = static_cast<S&>(t);
  std::memset(self.raw(), 0, static_cast<std::size_t>(t.bytes()));
  return self;
}

}  // namespace ls::ops::common
