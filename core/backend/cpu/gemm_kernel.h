#pragma once
// Register-blocked inner kernels behind gemm.h and small_gemm.h; include it nowhere else.
//
// micro_kernel keeps an MR x (NV vectors) block of C in registers. Per step of K it loads NV
// vectors of a row of B and multiplies each by MR broadcast elements of A, so that A needs no
// packing in either orientation and B only where its columns are not contiguous or not a whole
// number of vectors. With AVX-512 the block is 24 of the 32 registers, with AVX2 12 of 16: enough
// independent sums to cover the latency of two fused multiply-adds per cycle, with few enough loads
// to feed them.
//
// With AVX512-BF16 the element is a pair of neighbours along K, and one instruction adds the
// products of both to a float sum: half the steps, same structure.
#include "core/base/types.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define LS_BF16_PAIRS 1
#include <immintrin.h>
#endif

namespace ls::detail {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
inline constexpr int kMaxVectors = 4;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
inline constexpr int kMaxVectors = 3;
#else
inline constexpr int kVectorBytes = 16;
inline constexpr int kMaxVectors = 3;
#endif

/// Tallest register block for NV vectors per row.
constexpr int max_rows(int nv) {
#if defined(__AVX512F__)
  return nv == 4 ? 6 : 8;
#else
  return nv == 3 ? 4 : nv == 2 ? 6 : 8;
#endif
}

/// Two bf16 neighbours along K, the earlier in the lower half.
struct Bf16Pair {
  std::uint32_t bits;
};

template <class T>
struct Simd {
  using Acc = T;
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
  typedef T Vector __attribute__((vector_size(kVectorBytes)));
  typedef T Unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
  using Row = Vector;
  static Vector load(const T* p) { return *reinterpret_cast<const Unaligned*>(p); }
  static void store(T* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
  static T element(const T* p) { return *p; }
  static void multiply_add(Vector& sum, T x, Vector row) { sum += x * row; }
  static void multiply_add_each(Vector& sum, Vector x, Vector row) { sum += x * row; }
};

#if LS_BF16_PAIRS
template <>
struct Simd<Bf16Pair> {
  using Acc = float;
  static constexpr int kLanes = 16;
  using Vector = Simd<float>::Vector;
  using Row = __m512bh;
  static Row load(const Bf16Pair* p) { return reinterpret_cast<Row>(_mm512_loadu_si512(p)); }
  static Row element(const Bf16Pair* p) {
    typedef int Word __attribute__((aligned(2), may_alias));
    return reinterpret_cast<Row>(_mm512_set1_epi32(*reinterpret_cast<const Word*>(p)));
  }
  static void multiply_add_each(Vector& sum, Row x, Row row) { multiply_add(sum, x, row); }
  static void multiply_add(Vector& sum, Row x, Row row) {
    sum = reinterpret_cast<Vector>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), x, row));
  }
};
#endif

/// Transposes a square of N vectors of N elements in registers: swaps blocks of half the size, then
/// of a quarter and so on.
template <class V, std::size_t N>
inline void transpose(V (&row)[N]) {
  constexpr int kSide = static_cast<int>(N);
  using Mask = decltype(row[0] < row[0]);
#pragma GCC unroll 4
  for (int h = kSide / 2; h > 0; h /= 2) {
    Mask low{}, high{};
#pragma GCC unroll 16
    for (int l = 0; l < kSide; ++l) {
      low[l] = (l & h) ? kSide + l - h : l;
      high[l] = (l & h) ? kSide + l : l + h;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kSide; ++i) {
      if (!(i & h)) {
        const V a = row[i], b = row[i + h];
        row[i] = __builtin_shuffle(a, b, low);
        row[i + h] = __builtin_shuffle(a, b, high);
      }
    }
  }
}

/// C[m, cols] = alpha * A * B + beta * C for one column tile: cols elements, held by nv =
/// ceil(cols / kLanes) <= kMaxVectors vectors. A(i, p) is a[i * lda + p], or a[p * lda + i] when
/// TA; row p of B starts at b + p * ldb and has nv whole vectors. beta = 0 does not read C.
template <class T, bool TA>
void run_tile(Index m, Index cols, Index k, const T* a, Index lda, const T* b, Index ldb,
              typename Simd<T>::Acc alpha, typename Simd<T>::Acc beta, typename Simd<T>::Acc* c,
              Index ldc);

/// Columns [0, cols) of B as K rows of ceil(cols / kLanes) whole vectors, zero behind cols. B(p, j)
/// is b[p * ldb + j], or b[j * ldb + p] when TB.
template <class T, bool TB>
void pack_columns(Index cols, Index k, const T* b, Index ldb, T* out);

#if LS_BF16_PAIRS
/// The same from bf16 into ceil(k / 2) rows of pairs; behind an odd k the second half is zero.
template <bool TB>
void pack_columns_bf16(Index cols, Index k, const bf16* b, Index ldb, Bf16Pair* out);
#endif

/// Grow-only buffer of the calling thread, aligned to 64 bytes; `slot` tells apart buffers that are
/// in use at once. @throws std::bad_alloc
void* thread_scratch(int slot, Index bytes);

}  // namespace ls::detail
