// The inner kernels of gemm_kernel.h: blocks of C held in registers, one instantiation for each
// height and width, and the packing of columns of B into whole vectors. All of it runs on the
// calling thread, which owns C and its scratch buffers.
#include "core/backend/cpu/gemm_kernel.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

namespace ls::detail {
namespace {

template <class T, int MR, int NV, bool TA>
void micro_kernel(Index k, const T* a, Index lda, const T* b, Index ldb,
                  typename Simd<T>::Acc alpha, typename Simd<T>::Acc beta, typename Simd<T>::Acc* c,
                  Index ldc, int last) {
  using S = Simd<T>;
  using Acc = typename S::Acc;
  using V = typename S::Vector;
  constexpr int kLanes = S::kLanes;
  V sum[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < NV; ++j) {
      sum[i][j] = V{};
    }
  }
  for (Index p = 0; p < k; ++p) {
    typename S::Row row[NV];
#pragma GCC unroll 16
    for (int j = 0; j < NV; ++j) {
      row[j] = S::load(b + j * kLanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const auto x = S::element(TA ? a + i : a + i * lda);
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) {
        S::multiply_add(sum[i][j], x, row[j]);
      }
    }
    b += ldb;
    a += TA ? lda : 1;
  }
  using Out = Simd<Acc>;
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    Acc* out = c + i * ldc;
#pragma GCC unroll 16
    for (int j = 0; j < NV; ++j) {
      V v = alpha * sum[i][j];
      if (j == NV - 1 && last < kLanes) {
        Acc tail[kLanes];
        Out::store(tail, v);
        for (int l = 0; l < last; ++l) {
          Acc& x = out[j * kLanes + l];
          x = tail[l] + (beta != Acc(0) ? beta * x : Acc(0));
        }
        continue;
      }
      if (beta != Acc(0)) {
        v += beta * Out::load(out + j * kLanes);
      }
      Out::store(out + j * kLanes, v);
    }
  }
}

template <class T>
using MicroKernel = void (*)(Index, const T*, Index, const T*, Index, typename Simd<T>::Acc,
                             typename Simd<T>::Acc, typename Simd<T>::Acc*, Index, int);

constexpr int kTallest = 8;

template <class T, bool TA, int NV, int... MR>
constexpr std::array<MicroKernel<T>, kTallest> kernels_of(std::integer_sequence<int, MR...>) {
  return {
      (MR < max_rows(NV) ? &micro_kernel<T, std::min(MR + 1, max_rows(NV)), NV, TA> : nullptr)...};
}

template <class T, bool TA, int... NV>
constexpr auto kernel_table(std::integer_sequence<int, NV...>) {
  return std::array<std::array<MicroKernel<T>, kTallest>, sizeof...(NV)>{
      kernels_of<T, TA, NV + 1>(std::make_integer_sequence<int, kTallest>{})...};
}

/// Rows [0, cols) of b, each of k elements, as k rows of `width` elements, zero behind cols.
template <class T>
void pack_transposed(Index cols, Index width, Index k, const T* b, Index ldb, T* out) {
  using S = Simd<T>;
  constexpr int kLanes = S::kLanes;
  for (Index j = 0; j < width; j += kLanes) {
    const int rows = static_cast<int>(std::min<Index>(kLanes, cols - j));
    const T* from = b + j * ldb;
    Index p = 0;
    for (; p + kLanes <= k; p += kLanes) {
      typename S::Vector square[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        square[i] = i < rows ? S::load(from + i * ldb + p) : typename S::Vector{};
      }
      transpose(square);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        S::store(out + (p + i) * width + j, square[i]);
      }
    }
    for (; p < k; ++p) {
      T* to = out + p * width + j;
      for (int i = 0; i < kLanes; ++i) {
        to[i] = i < rows ? from[i * ldb + p] : T(0);
      }
    }
  }
}

template <class T>
constexpr Index padded(Index cols) {
  return (cols + Simd<T>::kLanes - 1) / Simd<T>::kLanes * Simd<T>::kLanes;
}

}  // namespace

template <class T, bool TA>
void run_tile(Index m, Index cols, Index k, const T* a, Index lda, const T* b, Index ldb,
              typename Simd<T>::Acc alpha, typename Simd<T>::Acc beta, typename Simd<T>::Acc* c,
              Index ldc) {
  static constexpr auto kTable =
      kernel_table<T, TA>(std::make_integer_sequence<int, kMaxVectors>{});
  constexpr int kLanes = Simd<T>::kLanes;
  const int nv = static_cast<int>((cols + kLanes - 1) / kLanes);
  const int last = static_cast<int>(cols - (nv - 1) * kLanes);
  // Blocks of nearly equal height: the last one is not left with too few sums to hide latency.
  const Index blocks = (m + max_rows(nv) - 1) / max_rows(nv);
  Index i = 0;
  for (Index block = 1; block <= blocks; ++block) {
    const Index end = m * block / blocks;
    kTable[nv - 1][end - i - 1](k, a + (TA ? i : i * lda), lda, b, ldb, alpha, beta, c + i * ldc,
                                ldc, last);
    i = end;
  }
}

template <class T, bool TB>
void pack_columns(Index cols, Index k, const T* b, Index ldb, T* out) {
  const Index width = padded<T>(cols);
  if constexpr (TB) {
    pack_transposed(cols, width, k, b, ldb, out);
  } else {
    for (Index p = 0; p < k; ++p, out += width) {
      std::copy_n(b + p * ldb, cols, out);
      std::fill(out + cols, out + width, T(0));
    }
  }
}

#if LS_BF16_PAIRS
template <bool TB>
void pack_columns_bf16(Index cols, Index k, const bf16* b, Index ldb, Bf16Pair* out) {
  const Index width = padded<float>(cols);
  const Index pairs = k / 2;
  if constexpr (TB) {
    if (ldb % 2 == 0 && reinterpret_cast<std::uintptr_t>(b) % 4 == 0) {
      // Pairs are moved, not interpreted: any 32-bit element type will do.
      pack_transposed(cols, width, pairs, reinterpret_cast<const float*>(b), ldb / 2,
                      reinterpret_cast<float*>(out));
    } else {
      for (Index p = 0; p < pairs; ++p) {
        for (Index j = 0; j < width; ++j) {
          std::uint32_t pair = 0;
          if (j < cols) {
            std::memcpy(&pair, b + j * ldb + 2 * p, sizeof pair);
          }
          out[p * width + j].bits = pair;
        }
      }
    }
  } else {
    for (Index p = 0; p < pairs; ++p) {
      const bf16* first = b + 2 * p * ldb;
      const bf16* second = first + ldb;
      Bf16Pair* to = out + p * width;
      for (Index j = 0; j < cols; ++j) {
        to[j].bits = first[j].bits | static_cast<std::uint32_t>(second[j].bits) << 16;
      }
      std::fill(to + cols, to + width, Bf16Pair{0});
    }
  }
  if (k % 2) {
    Bf16Pair* to = out + pairs * width;
    for (Index j = 0; j < width; ++j) {
      to[j].bits = j < cols ? (TB ? b[j * ldb + k - 1] : b[(k - 1) * ldb + j]).bits : 0;
    }
  }
}
template void pack_columns_bf16<false>(Index, Index, const bf16*, Index, Bf16Pair*);
template void pack_columns_bf16<true>(Index, Index, const bf16*, Index, Bf16Pair*);
template void run_tile<Bf16Pair, false>(Index, Index, Index, const Bf16Pair*, Index,
                                        const Bf16Pair*, Index, float, float, float*, Index);
template void run_tile<Bf16Pair, true>(Index, Index, Index, const Bf16Pair*, Index, const Bf16Pair*,
                                       Index, float, float, float*, Index);
#endif

void* thread_scratch(int slot, Index bytes) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  struct Buffer {
    std::unique_ptr<void, Free> data;
    Index bytes = 0;
  };
  thread_local std::array<Buffer, 5> buffers;
  Buffer& buffer = buffers[slot];
  if (buffer.bytes < bytes) {
    const Index rounded = (bytes + 4095) / 4096 * 4096;
    buffer.data.reset();
    buffer.bytes = 0;
    void* p = std::aligned_alloc(64, static_cast<std::size_t>(rounded));
    if (!p) {
      throw std::bad_alloc();
    }
    buffer.data.reset(p);
    buffer.bytes = rounded;
  }
  return buffer.data.get();
}

#define LS_INSTANTIATE(T)                                                                          \
  template void run_tile<T, false>(Index, Index, Index, const T*, Index, const T*, Index, T, T,    \
                                   T*, Index);                                                     \
  template void run_tile<T, true>(Index, Index, Index, const T*, Index, const T*, Index, T, T, T*, \
                                  Index);                                                          \
  template void pack_columns<T, false>(Index, Index, const T*, Index, T*);                         \
  template void pack_columns<T, true>(Index, Index, const T*, Index, T*);
LS_INSTANTIATE(float)
LS_INSTANTIATE(double)
#undef LS_INSTANTIATE

}  // namespace ls::detail
