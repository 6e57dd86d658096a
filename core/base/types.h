#pragma once
// Scalar vocabulary of the runtime: sizes, element types, 16-bit floats.
#include <array>
#include <bit>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "core/base/enum_names.h"

namespace ls {

/// Every size, stride, offset and count.
using Index = std::int64_t;

enum class DType : std::uint8_t { kF64, kF32, kBF16, kF16, kI64, kI32, kU8, kBool };
inline constexpr int kNumDTypes = 8;
template <>
struct EnumNames<DType> {
  static constexpr std::string_view kKind = "element type";
  static constexpr std::array<std::string_view, kNumDTypes> kNames = {"f64", "f32", "bf16", "f16",
                                                                      "i64", "i32", "u8",   "bool"};
};

/// bfloat16: the upper half of an IEEE float; conversions round to nearest even and keep NaN.
struct bf16 {
  std::uint16_t bits;
  bf16() = default;
  explicit constexpr bf16(float x) : bits(round(x)) {}
  explicit constexpr operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }

 private:
  static constexpr std::uint16_t round(float x) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      return static_cast<std::uint16_t>((u >> 16) | 0x40u);
    }
    return static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};

/// IEEE binary16, through the compiler's own type.
struct f16 {
  _Float16 value;
  f16() = default;
  explicit constexpr f16(float x) : value(static_cast<_Float16>(x)) {}
  explicit constexpr operator float() const { return static_cast<float>(value); }
};

constexpr Index dtype_size(DType t) {
  constexpr Index kSize[kNumDTypes] = {8, 4, 2, 2, 8, 4, 1, 1};
  return kSize[static_cast<int>(t)];
}
constexpr bool is_float(DType t) {
  return static_cast<int>(t) <= static_cast<int>(DType::kF16);
}
/// Type in which states, statistics and sums are kept: f64 for f64, f32 for every smaller float.
constexpr DType acc_dtype(DType t) {
  return t == DType::kF64 ? DType::kF64 : DType::kF32;
}

template <class T>
struct dtype_of;
template <>
struct dtype_of<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct dtype_of<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct dtype_of<bf16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct dtype_of<f16> {
  static constexpr DType value = DType::kF16;
};
template <>
struct dtype_of<std::int64_t> {
  static constexpr DType value = DType::kI64;
};
template <>
struct dtype_of<std::int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct dtype_of<std::uint8_t> {
  static constexpr DType value = DType::kU8;
};
template <>
struct dtype_of<bool> {
  static constexpr DType value = DType::kBool;
};
template <class T>
inline constexpr DType dtype_of_v = dtype_of<T>::value;

/// Accumulation type of an element type, as acc_dtype.
template <class T>
struct acc_of {
  using type = float;
};
template <>
struct acc_of<double> {
  using type = double;
};
template <class T>
using acc_t = typename acc_of<T>::type;

/// Between any two element types; 16-bit floats go through float, bool is "not zero".
template <class To, class From>
constexpr To convert(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (std::is_same_v<From, bf16> || std::is_same_v<From, f16>) {
    return convert<To>(static_cast<float>(x));
  } else if constexpr (std::is_same_v<To, bool>) {
    return x != From(0);
  } else if constexpr (std::is_same_v<To, bf16> || std::is_same_v<To, f16>) {
    return To(static_cast<float>(x));
  } else {
    return static_cast<To>(x);
  }
}

}  // namespace ls
