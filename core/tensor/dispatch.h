#pragma once
// From a run-time element type to a template argument: dispatch_float(t, [&]<class T>() { ... }).
#include <string>

#include "core/base/error.h"
#include "core/base/types.h"

namespace ls {

/// double, float, bf16, f16. @throws Error(DType) for other types.
template <class Fn>
void dispatch_float(DType t, Fn&& fn) {
  switch (t) {
    case DType::kF64:
      return fn.template operator()<double>();
    case DType::kF32:
      return fn.template operator()<float>();
    case DType::kBF16:
      return fn.template operator()<bf16>();
    case DType::kF16:
      return fn.template operator()<f16>();
    default:
      LS_FAIL(kDType, "a float type was expected, not {}", enum_name(t));
  }
}

template <class Fn>
void dispatch_all(DType t, Fn&& fn) {
  switch (t) {
    case DType::kI64:
      return fn.template operator()<std::int64_t>();
    case DType::kI32:
      return fn.template operator()<std::int32_t>();
    case DType::kU8:
      return fn.template operator()<std::uint8_t>();
    case DType::kBool:
      return fn.template operator()<bool>();
    default:
      return dispatch_float(t, std::forward<Fn>(fn));
  }
}

}  // namespace ls
