#include "core/base/rng.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <unordered_map>

#include "core/base/box_muller.h"
#include "core/base/error.h"

namespace ls {
namespace {

/// static_cast<double>(x) for x < 2^53, in operations that every vector unit has: in 2^84 + n 2^32
/// and 2^52 + n the low bits are n.
double exact_double(std::uint64_t x) {
  const double high = std::bit_cast<double>((x >> 32) | std::bit_cast<std::uint64_t>(0x1p84));
  const double low =
      std::bit_cast<double>((x & 0xFFFFFFFFu) | std::bit_cast<std::uint64_t>(0x1p52));
  return (high - (0x1p84 + 0x1p52)) + low;
}

}  // namespace

double Rng::normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_;
  }
  const double u = uniform(), v = uniform();
  double pair[2];
  box_muller(1, &u, &v, pair);
  spare_ = pair[1];
  has_spare_ = true;
  return pair[0];
}

void Rng::normal(std::span<double> out) {
  std::size_t done = 0;
  if (has_spare_ && !out.empty()) {
    out[done++] = normal();
  }
  // A block holds the bits of one pair.
  constexpr std::size_t kPairs = 128;
  double u[kPairs], v[kPairs];
  while (used_ == 4 && out.size() - done >= 2) {
    const std::size_t pairs = std::min(kPairs, (out.size() - done) / 2);
    for (std::size_t i = 0; i < pairs; ++i) {
      const std::uint64_t block = block_ + i;
      const auto word = philox4x32<std::uint64_t>({lo(block), hi(block), lo(index_), hi(index_)},
                                                  {lo(key_), hi(key_)});
      u[i] = exact_double((word[0] | word[1] << 32) >> 11) * 0x1p-53;
      v[i] = exact_double((word[2] | word[3] << 32) >> 11) * 0x1p-53;
    }
    box_muller(static_cast<Index>(pairs), u, v, &out[done]);
    block_ += pairs;
    done += 2 * pairs;
  }
  for (; done < out.size(); ++done) {
    out[done] = normal();
  }
}

// Lemire, "Fast random integer generation in an interval", 2019: the high half of a product, with
// the few low halves redrawn that would make some results likelier.
Index Rng::below(Index n) {
  LS_CHECK(n > 0, kInternal, "Rng::below: the range must hold at least one number, got {}", n);
  const auto range = static_cast<std::uint64_t>(n);
  if (range <= 0xFFFFFFFFu) {
    const auto range32 = static_cast<std::uint32_t>(range);
    std::uint64_t product = std::uint64_t{next_u32()} * range32;
    if (static_cast<std::uint32_t>(product) < range32) {
      const std::uint32_t redraw_below = (0u - range32) % range32;
      while (static_cast<std::uint32_t>(product) < redraw_below) {
        product = std::uint64_t{next_u32()} * range32;
      }
    }
    return static_cast<Index>(product >> 32);
  }
  __extension__ typedef unsigned __int128 Wide;
  Wide product = static_cast<Wide>(next_u64()) * range;
  const std::uint64_t redraw_below = (std::uint64_t{0} - range) % range;
  while (static_cast<std::uint64_t>(product) < redraw_below) {
    product = static_cast<Wide>(next_u64()) * range;
  }
  return static_cast<Index>(static_cast<std::uint64_t>(product >> 64));
}

// The first k swaps of a Fisher-Yates shuffle of 0 .. n-1. Both branches give the same numbers; the
// second keeps only the places that a swap has touched.
std::vector<Index> Rng::sample_without_replacement(Index n, Index k) {
  LS_CHECK(0 <= k && k <= n, kInternal, "cannot draw {} distinct numbers out of {}", k, n);
  std::vector<Index> out(static_cast<std::size_t>(k));
  if (n <= 32 * k) {
    std::vector<Index> all(static_cast<std::size_t>(n));
    std::iota(all.begin(), all.end(), Index{0});
    for (Index i = 0; i < k; ++i) {
      std::swap(all[i], all[i + below(n - i)]);
      out[i] = all[i];
    }
    return out;
  }
  std::unordered_map<Index, Index> moved;
  moved.reserve(static_cast<std::size_t>(2 * k));
  for (Index i = 0; i < k; ++i) {
    const Index j = i + below(n - i);
    const auto at_i = moved.find(i);
    const Index value_i = at_i == moved.end() ? i : at_i->second;
    const auto [at_j, fresh] = moved.try_emplace(j, j);
    out[i] = i == j ? value_i : at_j->second;
    at_j->second = value_i;
  }
  return out;
}

Permutation::Permutation(Index n, std::uint64_t seed, std::uint64_t stream, std::uint64_t index)
    : n_(n) {
  LS_CHECK(n > 0, kInternal, "a permutation needs at least one element, got {}", n);
  int bits = 0;
  while (bits < 63 && (Index{1} << bits) < n) {
    ++bits;
  }
  low_bits_ = (bits + 1) / 2;
  high_bits_ = bits / 2;
  Rng rng(seed, stream, index);
  for (std::uint64_t& key : keys_) {
    key = rng.next_u64();
  }
}

// A Feistel network over the smallest power of two that holds n, walked until it lands below n: it
// permutes the whole power of two, so each start below n has one end below n.
Index Permutation::operator()(Index i) const {
  LS_ASSERT(0 <= i && i < n_);
  const std::uint64_t low_mask = (std::uint64_t{1} << low_bits_) - 1;
  const std::uint64_t high_mask = (std::uint64_t{1} << high_bits_) - 1;
  auto x = static_cast<std::uint64_t>(i);
  do {
    std::uint64_t low = x & low_mask;
    std::uint64_t high = x >> low_bits_;
    for (std::size_t round = 0; round < kRounds; round += 2) {
      low ^= mix64(high + keys_[round]) & low_mask;
      high ^= mix64(low + keys_[round + 1]) & high_mask;
    }
    x = (high << low_bits_) | low;
  } while (x >= static_cast<std::uint64_t>(n_));
  return static_cast<Index>(x);
}

}  // namespace ls
