#pragma once
// Closed choices as enums with names: one table serves messages, YAML and files.
//
//   enum class Form : std::uint8_t { kAuto, kChunk };
//   template <>
//   struct EnumNames<Form> {
//     static constexpr std::string_view kKind = "form";
//     static constexpr std::array<std::string_view, 2> kNames = {"auto", "chunk"};
//   };
#include <array>
#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>
#include <type_traits>

namespace ls {

/// Names of the values 0, 1, ... of E, and what E is a choice of. Specialised beside the enum.
template <class E>
struct EnumNames;

template <class E>
concept NamedEnum = std::is_enum_v<E> && requires {
  { EnumNames<E>::kKind } -> std::convertible_to<std::string_view>;
  {std::span<const std::string_view>(EnumNames<E>::kNames)};
};

namespace detail {
/// Place of `text` among `names`. @throws Error(Config) with the nearest name and all of them
std::size_t enum_index(std::string_view kind, std::span<const std::string_view> names,
                       std::string_view text);
}  // namespace detail

template <NamedEnum E>
constexpr std::string_view enum_name(E value) {
  const auto at = static_cast<std::size_t>(value);
  return at < EnumNames<E>::kNames.size() ? EnumNames<E>::kNames[at] : "unknown";
}
/// @throws Error(Config) on another text, with the nearest name and all of them
template <NamedEnum E>
E parse_enum(std::string_view text) {
  return static_cast<E>(detail::enum_index(EnumNames<E>::kKind, EnumNames<E>::kNames, text));
}

}  // namespace ls
