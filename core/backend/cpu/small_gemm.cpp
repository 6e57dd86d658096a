// Products on the calling thread by tiles of columns: a tile of op(B) is packed as [depth, width],
// at most kDepth rows at a time, into the thread's scratch buffer 0 where its rows are no whole
// vectors; run_tile then takes the rows of A. In bf16 op(A) is packed too (buffer 1), as pairs
// along k; without such instructions A and B are widened to float (buffers 1 and 2).
#include "core/backend/cpu/small_gemm.h"

#include <algorithm>

#include "core/backend/cpu/gemm_kernel.h"

namespace ls {
namespace {
using namespace detail;

// Steps of K per pass: the packed columns of B (K x 64 floats) then stay within L2.
constexpr Index kDepth = 512;

template <class A>
void scale(Index m, Index n, A beta, A* c, Index ldc) {
  for (Index i = 0; i < m; ++i) {
    for (Index j = 0; j < n; ++j) {
      c[i * ldc + j] = beta == A(0) ? A(0) : beta * c[i * ldc + j];
    }
  }
}

/// Column tiles of nearly equal width, each a whole number of vectors but the last: f(j, cols).
template <class T, class F>
void for_column_tiles(Index n, F&& f) {
  constexpr Index kLanes = Simd<T>::kLanes;
  const Index vectors = (n + kLanes - 1) / kLanes;
  const Index tiles = (vectors + kMaxVectors - 1) / kMaxVectors;
  Index j = 0;
  for (Index tile = 1; tile <= tiles; ++tile) {
    const Index end = std::min(n, vectors * tile / tiles * kLanes);
    f(j, end - j);
    j = end;
  }
}

template <bool TA, bool TB, class T>
void product(Index m, Index n, Index k, T alpha, const T* a, Index lda, const T* b, Index ldb,
             T beta, T* c, Index ldc) {
  constexpr Index kLanes = Simd<T>::kLanes;
  for_column_tiles<T>(n, [&](Index j, Index cols) {
    T scale_c = beta;
    for (Index p = 0; p < k; p += kDepth) {
      const Index depth = std::min(kDepth, k - p);
      const T* tile_a = a + (TA ? p * lda : p);
      const T* tile_b = b + (TB ? j * ldb + p : p * ldb + j);
      if (!TB && cols % kLanes == 0) {
        run_tile<T, TA>(m, cols, depth, tile_a, lda, tile_b, ldb, alpha, scale_c, c + j, ldc);
      } else {
        const Index width = (cols + kLanes - 1) / kLanes * kLanes;
        T* packed = static_cast<T*>(thread_scratch(0, depth * width * Index{sizeof(T)}));
        pack_columns<T, TB>(cols, depth, tile_b, ldb, packed);
        run_tile<T, TA>(m, cols, depth, tile_a, lda, packed, width, alpha, scale_c, c + j, ldc);
      }
      scale_c = T(1);
    }
  });
}

template <bool TA, bool TB>
void product(Index m, Index n, Index k, float alpha, const bf16* a, Index lda, const bf16* b,
             Index ldb, float beta, float* c, Index ldc) {
#if LS_BF16_PAIRS
  constexpr Index kLanes = Simd<Bf16Pair>::kLanes;
  const Index pairs = (k + 1) / 2;
  const auto* left = reinterpret_cast<const Bf16Pair*>(a);
  Index left_ld = lda / 2;
  // Rows of A serve as they are when a row is whole pairs; else op(A) becomes [pairs, m].
  const bool direct = !TA && k % 2 == 0 && lda % 2 == 0;
  if (!direct) {
    left_ld = (m + kLanes - 1) / kLanes * kLanes;
    auto* packed = static_cast<Bf16Pair*>(thread_scratch(1, pairs * left_ld * 4));
    pack_columns_bf16<!TA>(m, k, a, lda, packed);
    left = packed;
  }
  for_column_tiles<Bf16Pair>(n, [&](Index j, Index cols) {
    const Index width = (cols + kLanes - 1) / kLanes * kLanes;
    auto* packed = static_cast<Bf16Pair*>(thread_scratch(0, pairs * width * 4));
    pack_columns_bf16<TB>(cols, k, b + (TB ? j * ldb : j), ldb, packed);
    if (direct) {
      run_tile<Bf16Pair, false>(m, cols, pairs, left, left_ld, packed, width, alpha, beta, c + j,
                                ldc);
    } else {
      run_tile<Bf16Pair, true>(m, cols, pairs, left, left_ld, packed, width, alpha, beta, c + j,
                               ldc);
    }
  });
#else
  const auto widen = [](int slot, Index rows, Index cols, const bf16* from, Index ld) {
    auto* to = static_cast<float*>(thread_scratch(slot, rows * cols * 4));
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < cols; ++j) {
        to[i * cols + j] = static_cast<float>(from[i * ld + j]);
      }
    }
    return to;
  };
  const float* left = widen(1, TA ? k : m, TA ? m : k, a, lda);
  const float* right = widen(2, TB ? n : k, TB ? k : n, b, ldb);
  product<TA, TB, float>(m, n, k, alpha, left, TA ? m : k, right, TB ? k : n, beta, c, ldc);
#endif
}
}  // namespace

template <bool TA, bool TB, class T>
void small_gemm(Index m, Index n, Index k, acc_t<T> alpha, const T* a, Index lda, const T* b,
                Index ldb, acc_t<T> beta, acc_t<T>* c, Index ldc) {
  if (m <= 0 || n <= 0) {
    return;
  }
  if (k <= 0) {
    scale(m, n, beta, c, ldc);
    return;
  }
  product<TA, TB>(m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

#define LS_INSTANTIATE(TA, TB, T)                                                               \
  template void small_gemm<TA, TB, T>(Index, Index, Index, acc_t<T>, const T*, Index, const T*, \
                                      Index, acc_t<T>, acc_t<T>*, Index);
#define LS_INSTANTIATE_ALL(T)     \
  LS_INSTANTIATE(false, false, T) \
  LS_INSTANTIATE(false, true, T)  \
  LS_INSTANTIATE(true, false, T)  \
  LS_INSTANTIATE(true, true, T)
LS_INSTANTIATE_ALL(float)
LS_INSTANTIATE_ALL(double)
LS_INSTANTIATE_ALL(bf16)
#undef LS_INSTANTIATE_ALL
#undef LS_INSTANTIATE

}  // namespace ls
