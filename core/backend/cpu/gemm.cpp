// Which way a product C [m,n] = alpha op(A) [m,k] op(B) [k,n] + beta C takes. Fewer than kFewRows
// rows times B transposed are dot products (packed_gemm.h), whatever their size. Other small ones
// are one call of small_gemm.h on the calling thread; larger ones are packed_gemm.h's over all
// threads, those of bf16 the matrix unit's (matrix_unit.h) where there is one. With long columns
// and a small C each thread takes pieces of k, into a sum [m,n] for each piece. Threads change who
// computes what, nothing else.
#include "core/backend/cpu/gemm.h"

#include <algorithm>
#include <string>
#include <type_traits>

#include "core/backend/cpu/gemm_kernel.h"
#include "core/backend/cpu/matrix_unit.h"
#include "core/backend/cpu/packed_gemm.h"
#include "core/backend/cpu/small_gemm.h"
#include "core/base/error.h"
#include "core/base/parallel_for.h"

namespace ls {
namespace {

// Below this many multiply-adds the kernel needs no packed operands and no second thread.
constexpr double kSmallWork = 64.0 * 64.0 * 64.0;

template <class T, class C>
double work(const Operands<T, C>& g) {
  return static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k);
}

/// C = beta * C.
template <class T, class C>
void scale(const Operands<T, C>& g) {
  for (Index i = 0; i < g.m; ++i) {
    for (Index j = 0; j < g.n; ++j) {
      C& x = g.c[i * g.ldc + j];
      x = g.beta == 0 ? C{0.0f} : convert<C>(g.beta * convert<acc_t<C>>(x));
    }
  }
}

template <class T, class C>
void run_whole(const Operands<T, C>& g) {
  if constexpr (std::is_same_v<C, acc_t<T>> && !std::is_same_v<T, f16>) {
    // Few rows times B transposed are dot products with B as it lies: no copy of a weight for one
    // token.
    const bool dots = g.m < kFewRows && g.trans_b && !g.trans_a;
    if (work(g) <= kSmallWork && !dots) {
      const auto small = [&]<bool TA, bool TB>() {
        small_gemm<TA, TB, T>(g.m, g.n, g.k, g.alpha, g.a, g.lda, g.b, g.ldb, g.beta, g.c, g.ldc);
      };
      if (g.trans_a) {
        g.trans_b ? small.template operator()<true, true>()
                  : small.template operator()<true, false>();
      } else {
        g.trans_b ? small.template operator()<false, true>()
                  : small.template operator()<false, false>();
      }
      return;
    }
  }
  packed_gemm(g);
}

/// Products over long columns (gradients of weights) with a small C are sums of the products of
/// pieces of A and B, so that threads take rows of both, again what they wrote. The pieces depend
/// on the sizes alone: one order of summation for any number of threads.
constexpr Index kDepthOfPiece = 512, kMostPieces = 4;
template <class T, class C>
bool splits_by_depth(const Operands<T, C>& g) {
  constexpr Index kLargestC = 1 << 15;
  return g.trans_a && !g.trans_b && g.m > 1 && g.n > 1 && g.m * g.n <= kLargestC &&
         g.k >= 2 * kDepthOfPiece && work(g) > kSmallWork;
}

/// Adds the other pieces' sums to rows [begin, end) of C.
void add_pieces(const Operands<float, float>& g, const float* others, Index pieces, Index size,
                Index begin, Index end) {
  for (Index i = begin; i < end; ++i) {
    float* __restrict const to = g.c + i * g.ldc;
    for (Index p = 1; p < pieces; ++p) {
      const float* __restrict const from = others + (p - 1) * size + i * g.n;
      for (Index j = 0; j < g.n; ++j) {
        to[j] += from[j];
      }
    }
  }
}

void run_by_depth(const Operands<float, float>& g) {
  const Index pieces = std::min(kMostPieces, g.k / kDepthOfPiece), size = g.m * g.n;
  // More threads than pieces share the rows of C.
  const Index blocks = std::clamp<Index>(num_threads() / pieces, 1, std::max<Index>(1, g.m / 32));
  float* const others =
      static_cast<float*>(detail::thread_scratch(4, (pieces - 1) * size * Index{sizeof(float)}));
  parallel_for(pieces * blocks, 1, [&](Index first, Index last) {
    for (Index task = first; task < last; ++task) {
      const Index p = task / blocks, block = task % blocks;
      const Index row = g.m * block / blocks, begin = g.k * p / pieces;
      Operands<float, float> part = g;
      part.m = g.m * (block + 1) / blocks - row;
      part.k = g.k * (p + 1) / pieces - begin;
      part.a += begin * g.lda + row;
      part.b += begin * g.ldb;
      part.c += row * g.ldc;
      if (p > 0) {
        part.beta = 0;
        part.ldc = g.n;
        part.c = others + (p - 1) * size + row * g.n;
      }
      packed_gemm(part);
    }
  });
  parallel_for(g.m, row_grain(g.n, 4096),
               [&](Index begin, Index end) { add_pieces(g, others, pieces, size, begin, end); });
}

/// Products of one shape, and the steps from one to the next.
struct Steps {
  Index count, a, b, c;
};

/// The same of small C, which stay in a core's cache: rows of A and B are read as they lie, without
/// packed operands, some of all products at a time, since heads lie side by side in a row: at least
/// kRowsAtOnce, and so many that C is added to kMostSums times at most, as each time rounds it.
constexpr Index kSmallC = 64 * 64, kRowsAtOnce = 64, kMostSums = 32;
void small_by_depth(const Operands<float, float>& g, const Steps& steps) {
  const Index pieces = std::min(kMostPieces, g.k / kDepthOfPiece), size = g.m * g.n;
  const Index shares = std::max<Index>(1, num_threads() / pieces);
  const Index groups = std::min(shares, steps.count);
  const Index blocks = std::clamp<Index>(shares / groups, 1, std::max<Index>(1, g.m / 32));
  float* const others = static_cast<float*>(
      detail::thread_scratch(4, (pieces - 1) * steps.count * size * Index{sizeof(float)}));
  parallel_for(pieces * groups * blocks, 1, [&](Index first, Index last) {
    for (Index task = first; task < last; ++task) {
      const Index p = task / (groups * blocks), group = task / blocks % groups;
      const Index block = task % blocks;
      const Index top = g.m * block / blocks, bottom = g.m * (block + 1) / blocks;
      const Index begin = g.k * p / pieces, end = g.k * (p + 1) / pieces;
      const Index rows = std::max(kRowsAtOnce, (end - begin) / kMostSums);
      for (Index row = begin; row < end; row += rows) {
        for (Index i = steps.count * group / groups; i < steps.count * (group + 1) / groups; ++i) {
          float* const c = p == 0 ? g.c + i * steps.c + top * g.ldc
                                  : others + (i * (pieces - 1) + p - 1) * size + top * g.n;
          const float beta = row > begin ? 1 : p == 0 ? g.beta : 0;
          small_gemm<true, false, float>(bottom - top, g.n, std::min(rows, end - row), g.alpha,
                                         g.a + i * steps.a + row * g.lda + top, g.lda,
                                         g.b + i * steps.b + row * g.ldb, g.ldb, beta, c,
                                         p == 0 ? g.ldc : g.n);
        }
      }
    }
  });
  parallel_for(steps.count, row_grain(size, 4096), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      Operands<float, float> one = g;
      one.c += i * steps.c;
      add_pieces(one, others + i * (pieces - 1) * size, pieces, size, 0, g.m);
    }
  });
}

template <class T, class C>
void run(const Operands<T, C>& g) {
  if (g.m == 0 || g.n == 0) {
    return;
  }
  if (g.k == 0) {
    scale(g);
    return;
  }
  if constexpr (std::is_same_v<T, bf16>) {
    if (work(g) > kSmallWork && g.m >= kFewRows && has_matrix_unit()) {
      unit_gemm(g);
      return;
    }
  }
  if constexpr (std::is_same_v<T, float>) {
    if (splits_by_depth(g)) {
      g.m* g.n <= kSmallC ? small_by_depth(g, {1, 0, 0, 0}) : run_by_depth(g);
      return;
    }
  }
  run_whole(g);
}

/// f(operands) with the operands' own types. @throws Error(Shape, DType) as gemm()
template <class F>
void typed(DType ab, DType c_dtype, bool trans_a, bool trans_b, Index m, Index n, Index k,
           double alpha, const void* a, Index lda, const void* b, Index ldb, double beta, void* c,
           Index ldc, F&& f) {
  LS_CHECK(
      is_float(ab) && (c_dtype == ab || (c_dtype == DType::kF32 && dtype_size(ab) == 2)), kDType,
      "gemm: {} x {} -> {} is not supported; C has the type of A and B, or f32 for 16-bit inputs",
      enum_name(ab), enum_name(ab), enum_name(c_dtype));
  LS_CHECK(m >= 0 && n >= 0 && k >= 0, kShape, "gemm: negative size: m {}, n {}, k {}", m, n, k);
  const Index row_a = trans_a ? m : k, row_b = trans_b ? k : n;
  LS_CHECK(lda >= row_a && ldb >= row_b && ldc >= n, kShape,
           "gemm: rows of A, B, C hold {}, {}, {} elements, more than their strides {}, {}, {}",
           row_a, row_b, n, lda, ldb, ldc);
  const auto with = [&]<class T, class C>() {
    f(Operands<T, C>{trans_a, trans_b, m, n, k, static_cast<acc_t<T>>(alpha),
                     static_cast<const T*>(a), lda, static_cast<const T*>(b), ldb,
                     static_cast<acc_t<T>>(beta), static_cast<C*>(c), ldc});
  };
  const bool wide = c_dtype == DType::kF32;
  switch (ab) {
    case DType::kF64:
      return with.template operator()<double, double>();
    case DType::kF32:
      return with.template operator()<float, float>();
    case DType::kBF16:
      return wide ? with.template operator()<bf16, float>()
                  : with.template operator()<bf16, bf16>();
    default:
      return wide ? with.template operator()<f16, float>() : with.template operator()<f16, f16>();
  }
}

}  // namespace

void gemm(DType ab, DType c_dtype, bool trans_a, bool trans_b, Index m, Index n, Index k,
          double alpha, const void* a, Index lda, const void* b, Index ldb, double beta, void* c,
          Index ldc) {
  typed(ab, c_dtype, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc,
        [](const auto& g) { run(g); });
}

void gemm_batched(DType ab, DType c_dtype, bool trans_a, bool trans_b, Index batch, Index m,
                  Index n, Index k, double alpha, const void* a, Index lda, Index stride_a,
                  const void* b, Index ldb, Index stride_b, double beta, void* c, Index ldc,
                  Index stride_c) {
  typed(ab, c_dtype, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc,
        [&](const auto& g) {
          const auto one = [&](Index i) {
            auto part = g;
            part.a += i * stride_a;
            part.b += i * stride_b;
            part.c += i * stride_c;
            run(part);
          };
          // Many small products are shared out, few large ones computed one after the other.
          const bool share_out = batch >= num_threads() && work(g) < 64 * kSmallWork;
          if constexpr (std::is_same_v<std::decay_t<decltype(g)>, Operands<float, float>>) {
            if (!share_out && batch > 0 && splits_by_depth(g) && g.m * g.n <= kSmallC) {
              small_by_depth(g, {batch, stride_a, stride_b, stride_c});
              return;
            }
          }
          const Index grain =
              share_out ? std::max<Index>(1, static_cast<Index>(kSmallWork / (work(g) + 1)))
                        : batch;
          parallel_for(batch, grain, [&](Index begin, Index end) {
            for (Index i = begin; i < end; ++i) {
              one(i);
            }
          });
        });
}

std::string_view bf16_products() {
  if (has_matrix_unit()) {
    return "by AMX";
  }
#if LS_BF16_PAIRS
  return "by AVX512-BF16";
#else
  return "widened to f32";
#endif
}

}  // namespace ls
