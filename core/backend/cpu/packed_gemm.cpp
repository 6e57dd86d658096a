// C is cut into tiles of kRows x kCols, shared out over the threads. Along k the product is made
// block by block, kDepth steps each:
//   packed B  [panels][depth, width]  columns jc .. jc + kWide of a block in panels of as many
//   columns as
//                                     the kernel keeps in registers; made by all threads, read by
//                                     all
//   packed A  [depth, rows] or [rows, depth]  the rows of one tile, made by the thread that owns
//   the tile:
//                                     only where A is transposed or has another type than the
//                                     kernel reads
// A panel of B (kDepth x 64 floats, 128 KiB) passes from the second-level cache through the rows of
// a tile, whose part of A stays there too. Where A has few rows, packing B would cost more than the
// product: then columns are shared out and B is read where it lies, or, transposed, row by row as
// dot products.
#include "core/backend/cpu/packed_gemm.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "core/backend/cpu/gemm_kernel.h"
#include "core/base/parallel_for.h"

namespace ls {
namespace {
using namespace detail;

constexpr Index kDepth = 512, kRows = 96, kCols = 512, kWide = 2048, kLargestOwn = 1 << 17;

/// What the kernel multiplies for elements of type T.
template <class T>
struct Packed {
  using type = std::conditional_t<std::is_same_v<T, double>, double, float>;
  static constexpr Index kPerStep = 1;
};
#if LS_BF16_PAIRS
template <>
struct Packed<bf16> {
  using type = Bf16Pair;
  static constexpr Index kPerStep = 2;
};
#endif

/// Columns [j, j + cols) of op(B), steps [p, p + depth): out [depth / kPerStep, width].
template <class T, class C>
void pack_b(const Operands<T, C>& g, Index p, Index depth, Index j, Index cols, Index width,
            typename Packed<T>::type* out) {
  using P = typename Packed<T>::type;
  const T* from = g.b + (g.trans_b ? j * g.ldb + p : p * g.ldb + j);
  if constexpr (std::is_same_v<P, T>) {
    g.trans_b ? pack_columns<T, true>(cols, depth, from, g.ldb, out)
              : pack_columns<T, false>(cols, depth, from, g.ldb, out);
#if LS_BF16_PAIRS
  } else if constexpr (std::is_same_v<P, Bf16Pair>) {
    g.trans_b ? pack_columns_bf16<true>(cols, depth, from, g.ldb, out)
              : pack_columns_bf16<false>(cols, depth, from, g.ldb, out);
#endif
  } else {
    const Index row = g.trans_b ? 1 : g.ldb, col = g.trans_b ? g.ldb : 1;
    for (Index q = 0; q < depth; ++q) {
      for (Index i = 0; i < cols; ++i) {
        out[q * width + i] = static_cast<P>(from[q * row + i * col]);
      }
      std::fill(out + q * width + cols, out + (q + 1) * width, P(0));
    }
  }
}

/// Rows of op(A) as the kernel reads them: element (i, p) at a[i * ld + p], or a[p * ld + i] when
/// `transposed`.
template <class P>
struct Left {
  const P* a;
  Index ld;
  bool transposed;
};

/// Rows [i, i + rows) of op(A), steps [p, p + depth); where it must be another type or order, in
/// `scratch`.
template <class T, class C>
Left<typename Packed<T>::type> left(const Operands<T, C>& g, Index i, Index rows, Index p,
                                    Index depth) {
  using P = typename Packed<T>::type;
  const T* from = g.a + (g.trans_a ? p * g.lda + i : i * g.lda + p);
  if constexpr (std::is_same_v<P, T>) {
    if (!g.trans_a) {
      return {from, g.lda, false};
    }
    auto* const out = static_cast<P*>(thread_scratch(1, depth * rows * Index{sizeof(P)}));
    for (Index q = 0; q < depth; ++q) {
      std::copy_n(from + q * g.lda, rows, out + q * rows);
    }
    return {out, rows, true};
#if LS_BF16_PAIRS
  } else if constexpr (std::is_same_v<P, Bf16Pair>) {
    if (!g.trans_a && depth % 2 == 0 && g.lda % 2 == 0) {
      return {reinterpret_cast<const P*>(from), g.lda / 2, false};
    }
    constexpr Index kLanes = Simd<P>::kLanes;
    const Index width = (rows + kLanes - 1) / kLanes * kLanes, pairs = (depth + 1) / 2;
    auto* const out = static_cast<P*>(thread_scratch(1, pairs * width * Index{sizeof(P)}));
    g.trans_a ? pack_columns_bf16<false>(rows, depth, from, g.lda, out)
              : pack_columns_bf16<true>(rows, depth, from, g.lda, out);
    return {out, width, true};
#endif
  } else {
    auto* const out = static_cast<P*>(thread_scratch(1, depth * rows * Index{sizeof(P)}));
    const Index outer = g.trans_a ? depth : rows, inner = g.trans_a ? rows : depth;
    for (Index q = 0; q < outer; ++q) {
      std::transform(from + q * g.lda, from + q * g.lda + inner, out + q * inner,
                     [](T x) { return static_cast<P>(x); });
    }
    return {out, inner, g.trans_a};
  }
}

template <class P>
void multiply(const Left<P>& a, Index rows, Index cols, Index steps, const P* b, Index ldb,
              typename Simd<P>::Acc alpha, typename Simd<P>::Acc beta, typename Simd<P>::Acc* c,
              Index ldc) {
  a.transposed ? run_tile<P, true>(rows, cols, steps, a.a, a.ld, b, ldb, alpha, beta, c, ldc)
               : run_tile<P, false>(rows, cols, steps, a.a, a.ld, b, ldb, alpha, beta, c, ldc);
}

/// C = beta C + sums, rounded, where C has fewer bits than the sums.
template <class C, class Acc>
void round_into(const Acc* sums, Index ld, Index rows, Index cols, Acc beta, C* c, Index ldc) {
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < cols; ++j) {
      C& x = c[i * ldc + j];
      x = C(sums[i * ld + j] + (beta != Acc(0) ? beta * static_cast<Acc>(x) : Acc(0)));
    }
  }
}

/// Rows of a tile: as many tiles as keep all threads busy, none taller than kRows.
Index tile_count(Index m, Index col_tiles) {
  const Index fewest = (m + kRows - 1) / kRows, threads = num_threads();
  const Index busy = (threads + col_tiles - 1) / col_tiles;  // a tile for each thread
  const Index tiles = std::max(fewest, std::min(busy, m / 16));
  const Index even = (tiles + busy - 1) / busy * busy;  // and as many for each
  return std::clamp<Index>(even <= m / 16 ? even : tiles, 1, m);
}

template <class T, class C>
void by_panels(const Operands<T, C>& g) {
  using P = typename Packed<T>::type;
  using Acc = acc_t<T>;
  constexpr bool kRounds = !std::is_same_v<C, Acc>;
  constexpr Index kPer = Packed<T>::kPerStep, kLanes = Simd<P>::kLanes;
  constexpr Index kPanel = kMaxVectors * kLanes;
  const auto vectors = [](Index cols) { return (cols + kLanes - 1) / kLanes; };
  const bool one_block = g.k <= kPer * kDepth;
  std::vector<Acc> sums(kRounds && !one_block ? static_cast<std::size_t>(g.m * g.n) : 0);
  for (Index jc = 0; jc < g.n; jc += kWide) {
    const Index n = std::min(kWide, g.n - jc), panels = (n + kPanel - 1) / kPanel;
    const auto first_column = [&](Index panel) {  // panels of nearly equal width, whole vectors
      return std::min(n, vectors(n) * panel / panels * kLanes);
    };
    const Index col_tiles = (panels * kPanel + kCols - 1) / kCols;
    const Index row_tiles = tile_count(g.m, col_tiles);
    for (Index pc = 0; pc < g.k; pc += kPer * kDepth) {
      const Index depth = std::min(kPer * kDepth, g.k - pc), steps = (depth + kPer - 1) / kPer;
      const bool first = pc == 0, last = pc + depth == g.k;
      const Index bytes = panels * kPanel * steps * Index{sizeof(P)};
      const auto pack = [&](P* out, Index begin, Index end) {
        for (Index panel = begin; panel < end; ++panel) {
          const Index j = first_column(panel), cols = first_column(panel + 1) - j;
          pack_b(g, pc, depth, jc + j, cols, vectors(cols) * kLanes, out + panel * kPanel * steps);
        }
      };
      // A small B is packed by each thread for itself, which costs less than waiting for the
      // others.
      const bool shared = bytes > kLargestOwn;
      P* const all = shared ? static_cast<P*>(thread_scratch(2, bytes)) : nullptr;
      if (shared) {
        parallel_for(panels, row_grain(kPanel * steps, 1 << 14),
                     [&](Index begin, Index end) { pack(all, begin, end); });
      }
      const auto tile = [&](const Left<P>& a, const P* packed, Index i, Index rows, Index panel) {
        const Index j = first_column(panel), cols = first_column(panel + 1) - j;
        const P* const b = packed + panel * kPanel * steps;
        C* const c = g.c + i * g.ldc + jc + j;
        if constexpr (kRounds) {
          Acc* const to =
              one_block ? static_cast<Acc*>(thread_scratch(0, rows * kPanel * Index{sizeof(Acc)}))
                        : sums.data() + i * g.n + jc + j;
          const Index ld = one_block ? kPanel : g.n;
          multiply(a, rows, cols, steps, b, vectors(cols) * kLanes, g.alpha,
                   first ? Acc(0) : Acc(1), to, ld);
          if (last) {
            round_into(to, ld, rows, cols, g.beta, c, g.ldc);
          }
        } else {
          multiply(a, rows, cols, steps, b, vectors(cols) * kLanes, g.alpha,
                   first ? g.beta : Acc(1), c, g.ldc);
        }
      };
      const Index tiles = row_tiles * col_tiles;
      const Index grain = row_grain(g.m * n * steps / tiles, 1 << 17);  // multiply-adds
      parallel_for(tiles, grain, [&](Index begin, Index end) {
        P* packed = all;
        if (!shared) {
          packed = static_cast<P*>(thread_scratch(2, bytes));
          pack(packed, 0, panels);
        }
        Left<P> a{};
        for (Index t = begin; t < end; ++t) {
          const Index row = t / col_tiles, col = t % col_tiles;
          const Index i = g.m * row / row_tiles, rows = g.m * (row + 1) / row_tiles - i;
          if (t == begin || col == 0) {
            a = left(g, i, rows, pc, depth);
          }
          for (Index p = panels * col / col_tiles; p < panels * (col + 1) / col_tiles; ++p) {
            tile(a, packed, i, rows, p);
          }
        }
      });
    }
  }
}

/// Vectors along k of rows of op(A) and of B transposed, for dot products.
template <class T>
struct Along {
  using P = typename Packed<T>::type;
  using Row = typename Simd<P>::Row;
  static constexpr Index kLength = Simd<P>::kLanes * Packed<T>::kPerStep;
  static Row load(const T* p) {
    if constexpr (Packed<T>::kPerStep == 2) {
      return Simd<P>::load(reinterpret_cast<const P*>(p));
    } else if constexpr (std::is_same_v<P, T>) {
      return Simd<P>::load(p);
    } else {
      P wide[kLength];
      for (Index i = 0; i < kLength; ++i) {
        wide[i] = static_cast<P>(p[i]);
      }
      return Simd<P>::load(wide);
    }
  }
  /// The first n of a vector, zeros behind.
  static Row load(const T* p, Index n) {
    T padded[kLength] = {};
    std::copy_n(p, n, padded);
    return load(padded);
  }
};

/// Lane l becomes the sum of the lanes of v[l], halves added onto halves.
template <class A>
typename Simd<A>::Vector sums_of_lanes(typename Simd<A>::Vector (&v)[Simd<A>::kLanes]) {
  constexpr int kLanes = Simd<A>::kLanes;
  using Mask = decltype(v[0] < v[0]);
#pragma GCC unroll 4
  for (int h = kLanes / 2; h > 0; h /= 2) {
    Mask own{}, other{};
#pragma GCC unroll 16
    for (int l = 0; l < kLanes; ++l) {
      own[l] = (l & h) ? kLanes + l : l;
      other[l] = (l & h) ? kLanes + (l ^ h) : l ^ h;
    }
#pragma GCC unroll 8
    for (int i = 0; i < h; ++i) {
      v[i] = __builtin_shuffle(v[i], v[i + h], own) + __builtin_shuffle(v[i], v[i + h], other);
    }
  }
  return v[0];
}

/// The lanes of out[i] add up to the sum over p of a[i, p] b[p], rows of a `lda` apart: b from
/// first to last, as the processor fetches ahead, over four sums. Rows that follow b lie `ldb`
/// apart.
template <class T, int MR>
void dot_products(Index k, const T* a, Index lda, const T* b, Index ldb,
                  typename Simd<acc_t<T>>::Vector* const (&out)[MR]) {
  using V = Along<T>;
  using S = Simd<typename V::P>;
  constexpr Index kSums = 4, kLength = V::kLength;
  typename S::Vector sum[MR][kSums] = {};
  const auto step = [&](Index p, Index s, auto&& load) {
    if constexpr (MR > 1) {  // products that take longer than the processor looks ahead
      __builtin_prefetch(b + p + 4 * ldb, 0, 2);
    }
    const typename V::Row row = load(b + p);
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) {
      S::multiply_add_each(sum[i][s], load(a + i * lda + p), row);
    }
  };
  const auto whole = [](const T* x) { return V::load(x); };
  Index p = 0;
  for (; p + kSums * kLength <= k; p += kSums * kLength) {
#pragma GCC unroll 4
    for (Index s = 0; s < kSums; ++s) {
      step(p + s * kLength, s, whole);
    }
  }
  for (; p + kLength <= k; p += kLength) {
    step(p, 0, whole);
  }
  if (p < k) {
    step(p, 1, [&](const T* x) { return V::load(x, k - p); });
  }
#pragma GCC unroll 4
  for (int i = 0; i < MR; ++i) {
    *out[i] = (sum[i][0] + sum[i][1]) + (sum[i][2] + sum[i][3]);
  }
}

/// C = alpha sums + beta C.
template <class T, class C>
void finish(const Operands<T, C>& g, const acc_t<T>* sums, Index ld, Index j, Index cols) {
  using Acc = acc_t<T>;
  for (Index i = 0; i < g.m; ++i) {
    for (Index l = 0; l < cols; ++l) {
      C& x = g.c[i * g.ldc + j + l];
      const Acc sum = g.alpha * sums[i * ld + l];
      x = convert<C>(g.beta != Acc(0) ? sum + g.beta * convert<Acc>(x) : sum);
    }
  }
}

/// B transposed: its rows lie along k, as those of A do or are made to.
template <class T, class C>
void few_rows_by_dots(const Operands<T, C>& g, Index grain) {
  using S = Simd<acc_t<T>>;
  constexpr Index kBlock = S::kLanes;  // columns
  std::vector<T> turned(g.trans_a ? static_cast<std::size_t>(g.m * g.k) : 0);
  for (Index p = 0; g.trans_a && p < g.k; ++p) {
    for (Index i = 0; i < g.m; ++i) {
      turned[i * g.k + p] = g.a[p * g.lda + i];
    }
  }
  const T* const a = g.trans_a ? turned.data() : g.a;
  const Index lda = g.trans_a ? g.k : g.lda;
  const Index blocks = (g.n + kBlock - 1) / kBlock;
  parallel_for(blocks, std::max<Index>(1, grain / kBlock), [&](Index begin, Index end) {
    for (Index block = begin; block < end; ++block) {
      const Index j = block * kBlock, cols = std::min<Index>(kBlock, g.n - j);
      typename S::Vector parts[kFewRows][kBlock];
      const auto rows = [&]<int MR>(Index i, Index l) {
        typename S::Vector* out[MR];
        for (Index r = 0; r < MR; ++r) {
          out[r] = &parts[i + r][l];
        }
        dot_products<T, MR>(g.k, a + i * lda, lda, g.b + (j + l) * g.ldb, g.ldb, out);
      };
      for (Index l = 0; l < cols; ++l) {
        Index i = 0;
        for (; i + 4 <= g.m; i += 4) {
          rows.template operator()<4>(i, l);
        }
        for (; i < g.m; ++i) {
          rows.template operator()<1>(i, l);
        }
      }
      acc_t<T> sums[kFewRows * kBlock];
      for (Index i = 0; i < g.m; ++i) {
        std::fill(parts[i] + cols, parts[i] + kBlock, typename S::Vector{});
        S::store(sums + i * kBlock, sums_of_lanes<acc_t<T>>(parts[i]));
      }
      finish(g, sums, kBlock, j, cols);
    }
  });
}

/// B not transposed: panels of its columns, where they lie if the kernel reads their type.
template <class T, class C>
void few_rows_by_columns(const Operands<T, C>& g, Index grain) {
  using P = typename Packed<T>::type;
  using Acc = acc_t<T>;
  constexpr Index kPer = Packed<T>::kPerStep, kLanes = Simd<P>::kLanes;
  constexpr Index kPanel = kMaxVectors * kLanes;
  parallel_for(
      (g.n + kPanel - 1) / kPanel, std::max<Index>(1, grain / kPanel), [&](Index begin, Index end) {
        for (Index panel = begin; panel < end; ++panel) {
          const Index j = panel * kPanel, cols = std::min(kPanel, g.n - j);
          const Index width = (cols + kLanes - 1) / kLanes * kLanes;
          Acc sums[kFewRows * kPanel];
          for (Index pc = 0; pc < g.k; pc += kPer * kDepth) {
            const Index depth = std::min(kPer * kDepth, g.k - pc);
            const Index steps = (depth + kPer - 1) / kPer;
            const Left<P> a = left(g, 0, g.m, pc, depth);
            const Acc beta = pc == 0 ? Acc(0) : Acc(1);
            if constexpr (std::is_same_v<P, T>) {
              if (width == cols) {
                multiply(a, g.m, cols, steps, g.b + pc * g.ldb + j, g.ldb, Acc(1), beta, sums,
                         kPanel);
                continue;
              }
            }
            auto* const b = static_cast<P*>(thread_scratch(0, steps * width * Index{sizeof(P)}));
            pack_b(g, pc, depth, j, cols, width, b);
            multiply(a, g.m, cols, steps, b, width, Acc(1), beta, sums, kPanel);
          }
          finish(g, sums, kPanel, j, cols);
        }
      });
}

}  // namespace

template <class T, class C>
void packed_gemm(const Operands<T, C>& g) {
  if (g.m >= kFewRows) {
    by_panels(g);
    return;
  }
  const Index grain = row_grain(g.m * g.k, 1 << 16);  // columns that are worth a thread
  g.trans_b ? few_rows_by_dots(g, grain) : few_rows_by_columns(g, grain);
}

template void packed_gemm(const Operands<float, float>&);
template void packed_gemm(const Operands<double, double>&);
template void packed_gemm(const Operands<bf16, float>&);
template void packed_gemm(const Operands<bf16, bf16>&);
template void packed_gemm(const Operands<f16, float>&);
template void packed_gemm(const Operands<f16, f16>&);

}  // namespace ls
