#pragma once
// Values that every rank knows of every other, and the groups of laws of communicators
// (tests/support/comm_laws.h), each a file beside this one.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "core/comm/comm.h"

namespace ls::test::comm {

inline std::size_t as_size(Index n) {
  return static_cast<std::size_t>(n);
}

/// The same value for (rank, i) everywhere; magnitudes spread so that another order of summation
/// gives other bits.
inline double sample(int rank, Index i) {
  std::uint64_t h = static_cast<std::uint64_t>(rank + 1) * 0x9e3779b97f4a7c15ull +
                    static_cast<std::uint64_t>(i + 1) * 0xbf58476d1ce4e5b9ull;
  h ^= h >> 29;
  h *= 0x94d049bb133111ebull;
  h ^= h >> 32;
  const double unit = static_cast<double>(h >> 11) * 0x1p-53 - 0.5;
  return unit * std::exp2(static_cast<int>(h % 9) - 4);
}

template <class T>
T typed_sample(int rank, Index i) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(sample(rank, i) * 1e6);
  } else if constexpr (sizeof(T) == 2) {
    return T(static_cast<float>(sample(rank, i)));
  } else {
    return static_cast<T>(sample(rank, i));
  }
}

template <class T>
std::vector<T> samples(int rank, Index n) {
  std::vector<T> x(as_size(n));
  for (Index i = 0; i < n; ++i) {
    x[as_size(i)] = typed_sample<T>(rank, i);
  }
  return x;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T>
struct Wide {
  using type = acc_t<T>;
};
template <>
struct Wide<std::int64_t> {
  using type = std::int64_t;
};
template <>
struct Wide<std::int32_t> {
  using type = std::int32_t;
};

/// The definition, one element at a time: rank 0 first, one rounding at the end.
template <class T>
std::vector<T> reduced(int ranks, Index n, ReduceOp op) {
  using W = typename Wide<T>::type;
  std::vector<T> result(as_size(n));
  for (Index i = 0; i < n; ++i) {
    W acc = static_cast<W>(typed_sample<T>(0, i));
    for (int r = 1; r < ranks; ++r) {
      const W x = static_cast<W>(typed_sample<T>(r, i));
      acc = op == ReduceOp::kSum   ? static_cast<W>(acc + x)
            : op == ReduceOp::kMax ? std::max(acc, x)
                                   : std::min(acc, x);
    }
    result[as_size(i)] = static_cast<T>(acc);
  }
  return result;
}

/// For float, double, bf16, f16 and the signed integers.
template <class T>
void check_reductions(Communicator& comm);
void check_special_values(Communicator& comm);
void check_movement(Communicator& comm);
void check_lists(Communicator& comm);
void check_moved_lists(Communicator& comm);
void check_messages(Communicator& comm);
void check_arguments(Communicator& comm);

}  // namespace ls::test::comm
