#pragma once
// Counter-based random numbers: a value depends on (seed, stream, index) and on its place in that
// sequence only, never on threads, ranks or what was drawn elsewhere.
#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/types.h"

namespace ls {

/// One block of Philox4x32-10: 128 random bits for a 128-bit counter under a 64-bit key. In words
/// of 64 bits (the upper halves zero) a loop over blocks vectorises best.
/// @source Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 4.
template <class Word = std::uint32_t>
constexpr std::array<Word, 4> philox4x32(std::array<Word, 4> counter,
                                         std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * static_cast<std::uint32_t>(counter[0]);
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * static_cast<std::uint32_t>(counter[2]);
    counter = {static_cast<Word>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(p1),
               static_cast<Word>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(p0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

/// A bijection of 64-bit words in which every input bit reaches every output bit.
/// @source the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
constexpr std::uint64_t mix64(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// Stream number of a name ("init/blocks.0.mixer.q.weight"): the same in every build and run.
constexpr std::uint64_t stream_id(std::string_view name) {
  std::uint64_t h = 0xCBF29CE484222325u;  // FNV-1a
  for (const char c : name) {
    h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  }
  return mix64(h);
}

/// The random sequence number `index` of stream `stream` under `seed`. A plain value of 48 bytes;
/// making one costs nothing, so make one per example, parameter or block of elements.
class Rng {
 public:
  explicit Rng(std::uint64_t seed, std::uint64_t stream = 0, std::uint64_t index = 0)
      : key_(mix64(seed ^ mix64(stream + 0x9E3779B97F4A7C15u))), index_(index) {}
  Rng(std::uint64_t seed, std::string_view stream, std::uint64_t index = 0)
      : Rng(seed, stream_id(stream), index) {}

  std::uint32_t next_u32() {
    if (used_ == 4) {
      bits_ = philox4x32({lo(block_), hi(block_), lo(index_), hi(index_)}, {lo(key_), hi(key_)});
      ++block_;
      used_ = 0;
    }
    return bits_[static_cast<std::size_t>(used_++)];
  }
  std::uint64_t next_u64() {
    const std::uint64_t low = next_u32();
    return low | (std::uint64_t{next_u32()} << 32);
  }
  /// In [0, 1), a multiple of 2^-53.
  double uniform() { return static_cast<double>(next_u64() >> 11) * 0x1p-53; }
  /// In [lo, hi).
  double uniform(double lo, double hi) {
    const double x = lo + (hi - lo) * uniform();
    return x < hi ? x : lo;  // rounding may reach hi
  }
  /// Standard normal.
  double normal();
  /// The same as normal() for each element in turn, several times faster where an even number of
  /// uniform numbers has been drawn before, as from a new Rng.
  void normal(std::span<double> out);
  /// Uniform in 0 .. n-1, without bias. @throws Error(Internal) if n < 1
  Index below(Index n);
  bool bernoulli(double p) { return uniform() < p; }
  /// A random order of the elements, each order equally likely.
  template <class Range>
  void shuffle(Range& range) {
    for (Index i = static_cast<Index>(std::size(range)) - 1; i > 0; --i) {
      std::swap(range[static_cast<std::size_t>(i)], range[static_cast<std::size_t>(below(i + 1))]);
    }
  }
  /// k distinct numbers of 0 .. n-1 in random order, each ordered choice equally likely. Memory and
  /// time grow with k, not n. @throws Error(Internal) unless 0 <= k <= n
  std::vector<Index> sample_without_replacement(Index n, Index k);

 private:
  static constexpr std::uint32_t lo(std::uint64_t x) { return static_cast<std::uint32_t>(x); }
  static constexpr std::uint32_t hi(std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); }

  std::uint64_t key_, index_, block_ = 0;
  std::array<std::uint32_t, 4> bits_{};
  int used_ = 4;
  bool has_spare_ = false;
  double spare_ = 0;  // second half of a Box-Muller pair
};

/// A pseudo-random permutation of 0 .. n-1 that is computed one element at a time: a shuffle that
/// holds no table.
class Permutation {
 public:
  /// @throws Error(Internal) if n < 1
  Permutation(Index n, std::uint64_t seed, std::uint64_t stream = 0, std::uint64_t index = 0);
  Index size() const { return n_; }
  /// Image of i, 0 <= i < n.
  Index operator()(Index i) const;

 private:
  static constexpr int kRounds = 8;
  Index n_;
  int low_bits_ = 0, high_bits_ = 0;
  std::array<std::uint64_t, kRounds> keys_{};
};

}  // namespace ls
