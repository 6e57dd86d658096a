#pragma once
// Structs whose members all have one type, as lists: In and Out of an op in the order of its
// contract.
#include <array>
#include <cstddef>
#include <span>
#include <vector>

namespace ls::detail {

/// Pointers to the members of a struct whose N members all have type T.
template <class T, class Struct>
auto members(Struct& s) {
  constexpr std::size_t kN = sizeof(Struct) / sizeof(T);
  static_assert(kN * sizeof(T) == sizeof(Struct) && kN >= 1 && kN <= 14);
  if constexpr (kN == 1) {
    auto& [a] = s;
    return std::array{&a};
  } else if constexpr (kN == 2) {
    auto& [a, b] = s;
    return std::array{&a, &b};
  } else if constexpr (kN == 3) {
    auto& [a, b, c] = s;
    return std::array{&a, &b, &c};
  } else if constexpr (kN == 4) {
    auto& [a, b, c, d] = s;
    return std::array{&a, &b, &c, &d};
  } else if constexpr (kN == 5) {
    auto& [a, b, c, d, e] = s;
    return std::array{&a, &b, &c, &d, &e};
  } else if constexpr (kN == 6) {
    auto& [a, b, c, d, e, f] = s;
    return std::array{&a, &b, &c, &d, &e, &f};
  } else if constexpr (kN == 7) {
    auto& [a, b, c, d, e, f, g] = s;
    return std::array{&a, &b, &c, &d, &e, &f, &g};
  } else if constexpr (kN == 8) {
    auto& [a, b, c, d, e, f, g, h] = s;
    return std::array{&a, &b, &c, &d, &e, &f, &g, &h};
  } else if constexpr (kN == 9) {
    auto& [a, b, c, d, e, f, g, h, i] = s;
    return std::array{&a, &b, &c, &d, &e, &f, &g, &h, &i};
  } else if constexpr (kN == 10) {
    auto& [a, b, c, d, e, f, g, h, i, j] = s;
    return std::array{&a, &b, &c, &d, &e, &f, &g, &h, &i, &j};
  } else if constexpr (kN == 11) {
    auto& [a, b, c, d, e, f, g, h, i, j, k] = s;
    return std::array{&a, &b, &c, &d, &e, &f, &g, &h, &i, &j, &k};
  } else if constexpr (kN == 12) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l] = s;
    return std::array{&a, &b, &c, &d, &e, &f, &g, &h, &i, &j, &k, &l};
  } else if constexpr (kN == 13) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m] = s;
    return std::array{&a, &b, &c, &d, &e, &f, &g, &h, &i, &j, &k, &l, &m};
  } else {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = s;
    return std::array{&a, &b, &c, &d, &e, &f, &g, &h, &i, &j, &k, &l, &m, &n};
  }
}

template <class Struct, class T>
Struct gather_members(std::span<const T> values) {
  Struct s;
  std::size_t i = 0;
  for (T* member : members<T>(s)) {
    *member = values[i++];
  }
  return s;
}

template <class T, class Struct>
std::vector<T> spread_members(const Struct& s) {
  std::vector<T> out;
  for (const T* member : members<const T>(s)) {
    out.push_back(*member);
  }
  return out;
}

}  // namespace ls::detail
