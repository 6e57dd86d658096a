// Which way a product C [m,n] = alpha op(A) [m,k] op(B) [k,n] + beta C takes. Small ones are tiles of
// small_gemm.h, rows of C shared out over the threads. Larger ones are oneDNN's where the build has
// it: with a small B each thread calls it for its rows of A and C; with long columns and a small C,
// for its piece of k, into a sum [m,n] of its own; else oneDNN shares out the whole by itself.
#include "core/backend/cpu/gemm.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/backend/cpu/gemm_kernel.h"
#include "core/backend/cpu/onednn.h"
#include "core/backend/cpu/small_gemm.h"
#include "core/base/error.h"
#include "core/base/parallel_for.h"

namespace ls {
namespace {

// Below this many multiply-adds waking a second thread costs more than it saves.
constexpr double kParallelWork = 64.0 * 64.0 * 64.0;

// Below this many, calling the library costs more than its better kernel saves.
constexpr double kSmallWork = 40.0 * 40.0 * 40.0;

struct Product {
  bool trans_a, trans_b;
  Index m, n, k;
  double alpha;
  Index lda, ldb;
  double beta;
  Index ldc;
};

double work(const Product& g) {
  return static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k);
}

template <class T, class F>
void with_transposes(const Product& g, F&& f) {
  if (g.trans_a) {
    g.trans_b ? f.template operator()<true, true>() : f.template operator()<true, false>();
  } else {
    g.trans_b ? f.template operator()<false, true>() : f.template operator()<false, false>();
  }
}

/// Rows of C shared out over the threads.
template <class T>
void by_rows(const Product& g, const T* a, const T* b, acc_t<T>* c) {
  const double row_work = static_cast<double>(g.n) * static_cast<double>(g.k);
  const Index grain = std::max<Index>(1, static_cast<Index>(kParallelWork / row_work));
  parallel_for(g.m, grain, [&](Index begin, Index end) {
    with_transposes<T>(g, [&]<bool TA, bool TB>() {
      small_gemm<TA, TB, T>(end - begin, g.n, g.k, static_cast<acc_t<T>>(g.alpha),
                            a + (TA ? begin : begin * g.lda), g.lda, b, g.ldb,
                            static_cast<acc_t<T>>(g.beta), c + begin * g.ldc, g.ldc);
    });
  });
}

void product(const Product& g, const double* a, const double* b, double* c) {
  by_rows(g, a, b, c);
}

void product(const Product& g, const float* a, const float* b, float* c) {
  by_rows(g, a, b, c);
}

void product(const Product& g, const bf16* a, const bf16* b, float* c) {
  by_rows(g, a, b, c);
}

void product(const Product& g, const f16* a, const f16* b, float* c) {
  const auto widen = [](Index rows, Index cols, const f16* from, Index ld) {
    std::vector<float> to(static_cast<std::size_t>(rows * cols));
    for (Index i = 0; i < rows; ++i) {
      std::transform(from + i * ld, from + i * ld + cols, to.begin() + i * cols,
                     [](f16 x) { return static_cast<float>(x); });
    }
    return to;
  };
  const auto left = widen(g.trans_a ? g.k : g.m, g.trans_a ? g.m : g.k, a, g.lda);
  const auto right = widen(g.trans_b ? g.n : g.k, g.trans_b ? g.k : g.n, b, g.ldb);
  Product packed = g;
  packed.lda = g.trans_a ? g.m : g.k;
  packed.ldb = g.trans_b ? g.k : g.n;
  product(packed, left.data(), right.data(), c);
}

/// C in 16 bits: the product is summed in float and rounded once.
template <class T>
void rounded_product(const Product& g, const T* a, const T* b, T* c) {
  std::vector<float> sums(static_cast<std::size_t>(g.m * g.n));
  Product wide = g;
  wide.beta = 0;
  wide.ldc = g.n;
  product(wide, a, b, sums.data());
  parallel_for(g.m, row_grain(g.n, 16384), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      for (Index j = 0; j < g.n; ++j) {
        T& x = c[i * g.ldc + j];
        float sum = sums[static_cast<std::size_t>(i * g.n + j)];
        if (g.beta != 0) {
          sum += static_cast<float>(g.beta) * static_cast<float>(x);
        }
        x = T(sum);
      }
    }
  });
}

/// C = beta * C.
template <class C>
void scale(const Product& g, C* c) {
  for (Index i = 0; i < g.m; ++i) {
    for (Index j = 0; j < g.n; ++j) {
      C& x = c[i * g.ldc + j];
      x = g.beta == 0 ? C{0.0f} : convert<C>(static_cast<acc_t<C>>(g.beta) * convert<acc_t<C>>(x));
    }
  }
}

void check(DType ab, DType c, const Product& g) {
  LS_CHECK(
      is_float(ab) && (c == ab || (c == DType::kF32 && dtype_size(ab) == 2)), kDType,
      "gemm: {} x {} -> {} is not supported; C has the type of A and B, or f32 for 16-bit inputs",
      enum_name(ab), enum_name(ab), enum_name(c));
  LS_CHECK(g.m >= 0 && g.n >= 0 && g.k >= 0, kShape, "gemm: negative size: m {}, n {}, k {}", g.m,
           g.n, g.k);
  const Index row_a = g.trans_a ? g.m : g.k, row_b = g.trans_b ? g.k : g.n;
  LS_CHECK(g.lda >= row_a && g.ldb >= row_b && g.ldc >= g.n, kShape,
           "gemm: rows of A, B, C hold {}, {}, {} elements, more than their strides {}, {}, {}",
           row_a, row_b, g.n, g.lda, g.ldb, g.ldc);
}

/// True where threads take rows of A and C, as they do in elementwise loops and scans, so that what
/// a core wrote it reads again: B is small enough for each of them to read it whole.
constexpr Index kRowsOfThread = 128;
bool splits_by_rows(const Product& g) {
  constexpr Index kLargestB = 1 << 17;
  return !g.trans_a && g.n * g.k <= kLargestB && num_threads() > 1 &&
         g.m >= kRowsOfThread * num_threads() && work(g) > kSmallWork && !omp_in_parallel();
}

/// Products over long columns (gradients of weights) with a small C are sums of the products of
/// pieces of A and B, so that threads take rows of both, again what they wrote. The pieces depend
/// on the sizes alone: one order of summation for any number of threads. Not in bf16, where the
/// library's sums depend on the height of C.
constexpr Index kDepthOfPiece = 512, kMostPieces = 4;
bool splits_by_depth(DType ab, const Product& g) {
  constexpr Index kLargestC = 1 << 15;
  return ab == DType::kF32 && g.trans_a && !g.trans_b && g.m > 1 && g.n > 1 &&
         g.m * g.n <= kLargestC && g.k >= 2 * kDepthOfPiece && work(g) > kParallelWork;
}

void run_whole(DType ab, DType c_dtype, const Product& g, const void* a, const void* b, void* c);

void run_by_depth(const Product& g, const float* a, const float* b, float* c) {
  const Index pieces = std::min(kMostPieces, g.k / kDepthOfPiece), size = g.m * g.n;
  // More threads than pieces share the rows of C.
  const Index blocks = std::clamp<Index>(num_threads() / pieces, 1, std::max<Index>(1, g.m / 32));
  float* const others =
      static_cast<float*>(detail::thread_scratch(3, (pieces - 1) * size * Index{sizeof(float)}));
  parallel_for(pieces * blocks, 1, [&](Index first, Index last) {
    for (Index task = first; task < last; ++task) {
      const Index p = task / blocks, block = task % blocks;
      const Index row = g.m * block / blocks, begin = g.k * p / pieces;
      Product part = g;
      part.m = g.m * (block + 1) / blocks - row;
      part.k = g.k * (p + 1) / pieces - begin;
      float* to = c + row * g.ldc;
      if (p > 0) {
        part.beta = 0;
        part.ldc = g.n;
        to = others + (p - 1) * size + row * g.n;
      }
      run_whole(DType::kF32, DType::kF32, part, a + begin * g.lda + row, b + begin * g.ldb, to);
    }
  });
  parallel_for(g.m, row_grain(g.n, 4096), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      float* __restrict const to = c + i * g.ldc;
      for (Index p = 1; p < pieces; ++p) {
        const float* __restrict const from = others + (p - 1) * size + i * g.n;
        for (Index j = 0; j < g.n; ++j) {
          to[j] += from[j];
        }
      }
    }
  });
}

void run(DType ab, DType c_dtype, const Product& g, const void* a, const void* b, void* c) {
  if (g.m == 0 || g.n == 0) {
    return;
  }
  if (splits_by_depth(ab, g)) {
    run_by_depth(g, static_cast<const float*>(a), static_cast<const float*>(b),
                 static_cast<float*>(c));
    return;
  }
  if (splits_by_rows(g)) {
    parallel_for(g.m, kRowsOfThread, [&](Index begin, Index end) {
      Product rows = g;
      rows.m = end - begin;
      run_whole(ab, c_dtype, rows, static_cast<const char*>(a) + begin * g.lda * dtype_size(ab), b,
                static_cast<char*>(c) + begin * g.ldc * dtype_size(c_dtype));
    });
    return;
  }
  run_whole(ab, c_dtype, g, a, b, c);
}

void run_whole(DType ab, DType c_dtype, const Product& g, const void* a, const void* b, void* c) {
  if (g.alpha == 1 && work(g) > kSmallWork &&
      onednn_gemm(ab, c_dtype, g.trans_a, g.trans_b, g.m, g.n, g.k, a, g.lda, b, g.ldb, g.beta, c,
                  g.ldc)) {
    return;
  }
  const auto typed = [&]<class T, class C>() {
    if (g.k == 0) {
      scale(g, static_cast<C*>(c));
    } else if constexpr (std::is_same_v<C, acc_t<T>>) {
      product(g, static_cast<const T*>(a), static_cast<const T*>(b), static_cast<C*>(c));
    } else {
      rounded_product(g, static_cast<const T*>(a), static_cast<const T*>(b), static_cast<C*>(c));
    }
  };
  const bool wide = c_dtype == DType::kF32;
  switch (ab) {
    case DType::kF64:
      return typed.template operator()<double, double>();
    case DType::kF32:
      return typed.template operator()<float, float>();
    case DType::kBF16:
      return wide ? typed.template operator()<bf16, float>()
                  : typed.template operator()<bf16, bf16>();
    default:
      return wide ? typed.template operator()<f16, float>() : typed.template operator()<f16, f16>();
  }
}
}  // namespace

void gemm(DType ab, DType c_dtype, bool trans_a, bool trans_b, Index m, Index n, Index k,
          double alpha, const void* a, Index lda, const void* b, Index ldb, double beta, void* c,
          Index ldc) {
  const Product g{trans_a, trans_b, m, n, k, alpha, lda, ldb, beta, ldc};
  check(ab, c_dtype, g);
  run(ab, c_dtype, g, a, b, c);
}

void gemm_batched(DType ab, DType c_dtype, bool trans_a, bool trans_b, Index batch, Index m,
                  Index n, Index k, double alpha, const void* a, Index lda, Index stride_a,
                  const void* b, Index ldb, Index stride_b, double beta, void* c, Index ldc,
                  Index stride_c) {
  const Product g{trans_a, trans_b, m, n, k, alpha, lda, ldb, beta, ldc};
  check(ab, c_dtype, g);
  const auto one = [&](Index i) {
    run(ab, c_dtype, g, static_cast<const char*>(a) + i * stride_a * dtype_size(ab),
        static_cast<const char*>(b) + i * stride_b * dtype_size(ab),
        static_cast<char*>(c) + i * stride_c * dtype_size(c_dtype));
  };
  const double each = work(g);
  if (batch >= num_threads() && each < 64 * kParallelWork) {
    const Index grain = std::max<Index>(1, static_cast<Index>(kParallelWork / std::max(1.0, each)));
    parallel_for(batch, grain, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        one(i);
      }
    });
  } else {
    for (Index i = 0; i < batch; ++i) {
      one(i);
    }
  }
}

}  // namespace ls
