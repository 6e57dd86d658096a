#pragma once
// Products of bf16 on a unit that multiplies tiles; include it in matrix_unit.cpp and its test
// only.
//
// A tile is 16 lines of 64 bytes: of A 16 rows, each 16 pairs along k; of B 16 pairs along k, each
// 16 columns; of sums 16 x 16 floats. A step adds the four products of two tiles of A and two of B
// to a block of 32 x 32 sums: eight tiles, all that the unit has. Both operands are packed, tile
// behind tile in the order of the steps, with zeros where a tile reaches beyond the matrix: the
// unit reads nothing that was not written, and needs one configuration for every size.
//   packed A  [blocks of 16 rows][steps][16 rows][16 pairs]      by the thread that owns the rows
//   packed B  [blocks of 16 columns][steps][16 pairs][16 columns]   by all threads, read by all
// C is cut into tiles of kTileRows x kTileCols, shared out over the threads. A longer k is summed
// piece by piece: the sums wait in C itself where it can hold them, else in a buffer of whole
// blocks.
//
// Unit has static members that see the memory as it is when they are called: begin() and end()
// around a thread's work, zero<T>(), load<T>(from, bytes between lines), store<T>(to, bytes between
// lines) and multiply<Sum, A, B>() for tiles 0 to 7.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/backend/cpu/gemm_kernel.h"
#include "core/backend/cpu/packed_gemm.h"
#include "core/base/parallel_for.h"

namespace ls::detail {

inline constexpr Index kSide = 16;  // lines of a tile, and pairs or columns of a line
inline constexpr Index kTileWords = kSide * kSide;
inline constexpr Index kStep = 2 * kSide;   // elements along k of a tile
inline constexpr Index kBlock = 2 * kSide;  // rows and columns of a block of C
inline constexpr Index kUnitDepth = 1024, kUnitWide = 2048, kTileRows = 128, kTileCols = 512;

constexpr Index parts(Index n, Index size) {
  return (n + size - 1) / size;
}

/// Words of 32 bits, each a pair of bf16 or what lies in its place.
typedef std::uint32_t Words __attribute__((vector_size(64)));
typedef std::uint16_t Halves __attribute__((vector_size(32)));

/// A tile from whole lines. Along: line i is 32 elements along k at from + i * ld, else element p
/// along k of all lines lies at from + p * ld. PairsFirst: out is [pair][line], else [line][pair].
template <bool Along, bool PairsFirst>
void pack_whole_tile(const bf16* from, Index ld, std::uint32_t* out) {
  Words row[kSide];
#pragma GCC unroll 16
  for (Index i = 0; i < kSide; ++i) {
    if constexpr (Along) {
      std::memcpy(&row[i], from + i * ld, sizeof row[i]);
    } else {
      Halves even, odd;
      std::memcpy(&even, from + 2 * i * ld, sizeof even);
      std::memcpy(&odd, from + (2 * i + 1) * ld, sizeof odd);
      row[i] = __builtin_convertvector(even, Words) | __builtin_convertvector(odd, Words) << 16;
    }
  }
  if constexpr (Along == PairsFirst) {
    transpose(row);
  }
  std::memcpy(out, row, sizeof row);
}

/// A tile of which the matrix has `lines` lines and `depth` elements along k, zero beyond.
template <bool Along, bool PairsFirst>
void pack_tile(Index lines, Index depth, const bf16* from, Index ld, std::uint32_t* out) {
  if (lines == kSide && depth == kStep) {
    pack_whole_tile<Along, PairsFirst>(from, ld, out);
    return;
  }
  bf16 whole[kSide * kStep];
  std::fill_n(whole, kSide * kStep, bf16(0.0f));
  const Index rows = Along ? lines : depth, cols = Along ? depth : lines;
  constexpr Index kRow = Along ? kStep : kSide;
  for (Index i = 0; i < rows; ++i) {
    std::copy_n(from + i * ld, cols, whole + i * kRow);
  }
  pack_whole_tile<Along, PairsFirst>(whole, kRow, out);
}

/// out [blocks of 16 lines][steps][tile], memory being read in the order in which it lies.
template <bool Along, bool PairsFirst>
void pack_tiles(Index lines, Index depth, const bf16* from, Index ld, std::uint32_t* out) {
  const Index blocks = parts(lines, kSide), steps = parts(depth, kStep);
  const auto tile = [&](Index block, Index step) {
    const Index i = block * kSide, p = step * kStep;
    pack_tile<Along, PairsFirst>(std::min(kSide, lines - i), std::min(kStep, depth - p),
                                 from + (Along ? i * ld + p : p * ld + i), ld,
                                 out + (block * steps + step) * kTileWords);
  };
  for (Index outer = 0; outer < (Along ? blocks : steps); ++outer) {
    for (Index inner = 0; inner < (Along ? steps : blocks); ++inner) {
      Along ? tile(outer, inner) : tile(inner, outer);
    }
  }
}

/// sums [32, 32], `ld` apart, = (adds ? sums : 0) + A B over `steps` tiles of packed A and B;
/// without `lower` or `right` the upper or left half only.
template <class Unit>
void multiply_block(Index steps, const std::uint32_t* a, const std::uint32_t* b, bool lower,
                    bool right, bool adds, float* sums, Index ld) {
  constexpr Index kLine = 64;
  const Index row = ld * Index{sizeof(float)};
  const std::uint32_t* const a1 = a + steps * kTileWords;
  const std::uint32_t* const b1 = b + steps * kTileWords;
  float* const below = sums + kSide * ld;
  Unit::template zero<0>();
  Unit::template zero<1>();
  Unit::template zero<2>();
  Unit::template zero<3>();
  if (adds) {
    Unit::template load<0>(sums, row);
    if (right) {
      Unit::template load<1>(sums + kSide, row);
    }
    if (lower) {
      Unit::template load<2>(below, row);
    }
    if (lower && right) {
      Unit::template load<3>(below + kSide, row);
    }
  }
  const auto run = [&]<bool Lower, bool Right>() {
    for (Index at = 0; at < steps * kTileWords; at += kTileWords) {
      Unit::template load<4>(a + at, kLine);
      Unit::template load<6>(b + at, kLine);
      Unit::template multiply<0, 4, 6>();
      if constexpr (Right) {
        Unit::template load<7>(b1 + at, kLine);
        Unit::template multiply<1, 4, 7>();
      }
      if constexpr (Lower) {
        Unit::template load<5>(a1 + at, kLine);
        Unit::template multiply<2, 5, 6>();
      }
      if constexpr (Lower && Right) {
        Unit::template multiply<3, 5, 7>();
      }
    }
  };
  if (lower) {
    right ? run.template operator()<true, true>() : run.template operator()<true, false>();
  } else {
    right ? run.template operator()<false, true>() : run.template operator()<false, false>();
  }
  Unit::template store<0>(sums, row);
  if (right) {
    Unit::template store<1>(sums + kSide, row);
  }
  if (lower) {
    Unit::template store<2>(below, row);
  }
  if (lower && right) {
    Unit::template store<3>(below + kSide, row);
  }
}

/// One product. Sums of a block stand in C where it holds them as they are, in `sums_` between the
/// pieces of k where it does not, and on the stack where there is one piece or the block is no
/// whole one.
template <class Unit, class C>
class UnitProduct {
 public:
  explicit UnitProduct(const Operands<bf16, C>& g) : g_(g) {}

  void run() {
    const Index pieces = parts(g_.k, kUnitDepth), all_steps = parts(g_.k, kStep);
    for (j_ = 0; j_ < g_.n; j_ += kUnitWide) {
      n_ = std::min(kUnitWide, g_.n - j_);
      if (!in_place_ && pieces > 1) {
        sums_ = static_cast<float*>(thread_scratch(4, rows_ * cols() * kBlock * kBlock * 4));
      }
      for (Index piece = 0; piece < pieces; ++piece) {
        p_ = all_steps * piece / pieces * kStep;
        depth_ = std::min(g_.k, all_steps * (piece + 1) / pieces * kStep) - p_;
        steps_ = parts(depth_, kStep);
        multiply();
      }
    }
  }

 private:
  Index cols() const { return parts(n_, kBlock); }  // blocks of them, as rows_

  /// Columns [j_, j_ + n_) of C and elements [p_, p_ + depth_) along k.
  void multiply() {
    constexpr Index kLargestOwn = 1 << 17, kWorthThread = 1 << 19;  // bytes, multiply-adds
    const Index threads = num_threads();
    Index col_tiles = parts(n_, kTileCols);
    const Index busy = parts(threads, col_tiles), fewest = parts(rows_ * kBlock, kTileRows);
    Index row_tiles = std::max(fewest, std::min(busy, rows_));
    if (const Index even = parts(row_tiles, busy) * busy; even <= rows_) {
      row_tiles = even;  // as many for each thread
    }
    if (row_tiles * col_tiles < threads) {
      col_tiles = std::min(cols(), parts(threads, row_tiles));
    }
    // A small B is packed by each thread for itself, which costs less than waiting for the others.
    const Index blocks = parts(n_, kSide), bytes = blocks * steps_ * kTileWords * 4;
    const bool shared = bytes > kLargestOwn;
    std::uint32_t* const all =
        shared ? static_cast<std::uint32_t*>(thread_scratch(2, bytes)) : nullptr;
    if (shared) {
      parallel_for(blocks, row_grain(steps_ * kTileWords, 1 << 13),
                   [&](Index begin, Index end) { pack_b(begin, end, all); });
    }
    const Index tiles = row_tiles * col_tiles;
    parallel_for(
        tiles, row_grain(g_.m * n_ * depth_ / tiles, kWorthThread), [&](Index begin, Index end) {
          std::uint32_t* b = all;
          if (!shared) {
            b = static_cast<std::uint32_t*>(thread_scratch(2, bytes));
            pack_b(0, blocks, b);
          }
          std::uint32_t* a = nullptr;
          Unit::begin();
          for (Index t = begin; t < end; ++t) {
            const Index row = t / col_tiles, col = t % col_tiles;
            const Index r0 = rows_ * row / row_tiles, r1 = rows_ * (row + 1) / row_tiles;
            if (t == begin || col == 0) {
              a = pack_a(r0, r1);
            }
            for (Index c = cols() * col / col_tiles; c < cols() * (col + 1) / col_tiles; ++c) {
              for (Index r = r0; r < r1; ++r) {
                block(r, c, a + (r - r0) * 2 * steps_ * kTileWords,
                      b + c * 2 * steps_ * kTileWords);
              }
            }
          }
          Unit::end();
        });
  }

  /// Blocks [r0, r1) of rows of A.
  std::uint32_t* pack_a(Index r0, Index r1) const {
    const Index i = r0 * kBlock, rows = std::min(g_.m, r1 * kBlock) - i;
    auto* const out = static_cast<std::uint32_t*>(
        thread_scratch(1, parts(rows, kSide) * steps_ * kTileWords * 4));
    const bf16* const from = g_.a + (g_.trans_a ? p_ * g_.lda + i : i * g_.lda + p_);
    g_.trans_a ? pack_tiles<false, false>(rows, depth_, from, g_.lda, out)
               : pack_tiles<true, false>(rows, depth_, from, g_.lda, out);
    return out;
  }
  /// Blocks [begin, end) of 16 columns of B.
  void pack_b(Index begin, Index end, std::uint32_t* all) const {
    const Index j = begin * kSide, cols = std::min(n_, end * kSide) - j;
    const bf16* const from = g_.b + (g_.trans_b ? (j_ + j) * g_.ldb + p_ : p_ * g_.ldb + j_ + j);
    std::uint32_t* const out = all + begin * steps_ * kTileWords;
    g_.trans_b ? pack_tiles<true, true>(cols, depth_, from, g_.ldb, out)
               : pack_tiles<false, true>(cols, depth_, from, g_.ldb, out);
  }

  void block(Index r, Index c, const std::uint32_t* a, const std::uint32_t* b) {
    const Index i = r * kBlock, j = c * kBlock;
    const Index rows = std::min(kBlock, g_.m - i), cols = std::min(kBlock, n_ - j);
    const bool first = p_ == 0, last = p_ + depth_ == g_.k;
    const bool lower = rows > kSide, right = cols > kSide;
    C* const to = g_.c + i * g_.ldc + j_ + j;
    alignas(64) float own[kBlock * kBlock];
    if constexpr (std::is_same_v<C, float>) {
      if (in_place_) {
        const bool adds = !first || g_.beta != 0;
        if (rows == kBlock && cols == kBlock) {
          multiply_block<Unit>(steps_, a, b, lower, right, adds, to, g_.ldc);
          return;
        }
        std::fill_n(own, kBlock * kBlock, 0.0f);
        for (Index l = 0; adds && l < rows; ++l) {
          std::copy_n(to + l * g_.ldc, cols, own + l * kBlock);
        }
        multiply_block<Unit>(steps_, a, b, lower, right, adds, own, kBlock);
        for (Index l = 0; l < rows; ++l) {
          std::copy_n(own + l * kBlock, cols, to + l * g_.ldc);
        }
        return;
      }
    }
    float* const sums = sums_ ? sums_ + (r * this->cols() + c) * kBlock * kBlock : own;
    multiply_block<Unit>(steps_, a, b, lower, right, !first, sums, kBlock);
    if (last) {
      finish(sums, rows, cols, to);
    }
  }

  /// C = alpha sums + beta C.
  void finish(const float* sums, Index rows, Index cols, C* c) const {
    for (Index i = 0; i < rows; ++i, sums += kBlock, c += g_.ldc) {
      if (g_.beta == 0) {
        for (Index j = 0; j < cols; ++j) {
          c[j] = C(g_.alpha * sums[j]);
        }
      } else {
        for (Index j = 0; j < cols; ++j) {
          c[j] = C(g_.alpha * sums[j] + g_.beta * static_cast<float>(c[j]));
        }
      }
    }
  }

  const Operands<bf16, C>& g_;
  const Index rows_ = parts(g_.m, kBlock);  // blocks
  const bool in_place_ =
      std::is_same_v<C, float> && g_.alpha == 1 && (g_.beta == 0 || g_.beta == 1);
  float* sums_ = nullptr;  // [rows_][cols()][32, 32]
  Index j_ = 0, n_ = 0, p_ = 0, depth_ = 0, steps_ = 0;
};

}  // namespace ls::detail
