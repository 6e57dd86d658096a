#include "core/backend/cpu/gemm.h"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/backend/cpu/matrix_unit.h"
#include "core/backend/cpu/matrix_unit_kernel.h"
#include "core/backend/cpu/small_gemm.h"
#include "core/base/error.h"
#include "core/base/parallel_for.h"

namespace ls {
namespace {

struct Case {
  Index m, n, k;
  bool ta = false, tb = false;
  double alpha = 1, beta = 0;
  Index pad = 0;  // ld beyond the row length
};

template <class T>
std::vector<T> random_matrix(Index rows, Index ld, unsigned seed) {
  std::mt19937 gen(seed);
  std::uniform_real_distribution<float> value(-1, 1);
  std::vector<T> x(static_cast<std::size_t>(rows * ld));
  for (T& v : x) {
    v = convert<T>(value(gen));
  }
  return x;
}

/// Runs `product` (arguments as gemm's) on random operands and compares with sums in double. C
/// starts as NaN where beta is 0, and what lies between its rows must stay untouched.
template <class T, class C, class F>
void check_product(const Case& t, double tolerance, F&& product) {
  CAPTURE(t.m);
  CAPTURE(t.n);
  CAPTURE(t.k);
  CAPTURE(t.ta);
  CAPTURE(t.tb);
  CAPTURE(t.alpha);
  CAPTURE(t.beta);
  CAPTURE(t.pad);
  const Index lda = (t.ta ? t.m : t.k) + t.pad, ldb = (t.tb ? t.k : t.n) + t.pad, ldc = t.n + t.pad;
  const auto a = random_matrix<T>(t.ta ? t.k : t.m, lda, 1);
  const auto b = random_matrix<T>(t.tb ? t.n : t.k, ldb, 2);
  auto c = random_matrix<C>(t.m, ldc, 3);
  if (t.beta == 0) {
    for (C& x : c) {
      x = convert<C>(std::numeric_limits<double>::quiet_NaN());
    }
  }
  const auto before = c;
  product(t, a.data(), lda, b.data(), ldb, c.data(), ldc);
  const auto at = [](const auto& x, Index i) {
    return convert<double>(x[static_cast<std::size_t>(i)]);
  };
  double worst = 0;
  bool padding_kept = true;
  for (Index i = 0; i < t.m; ++i) {
    for (Index j = 0; j < ldc; ++j) {
      const double got = at(c, i * ldc + j);
      if (j >= t.n) {
        const double was = at(before, i * ldc + j);
        padding_kept = padding_kept && (got == was || (std::isnan(got) && std::isnan(was)));
        continue;
      }
      double sum = 0, size = 0;
      for (Index p = 0; p < t.k; ++p) {
        const double x =
            at(a, t.ta ? p * lda + i : i * lda + p) * at(b, t.tb ? j * ldb + p : p * ldb + j);
        sum += x;
        size += std::abs(x);
      }
      double want = t.alpha * sum;
      size = std::abs(t.alpha) * size;
      if (t.beta != 0) {
        const double old = t.beta * at(before, i * ldc + j);
        want += old;
        size += std::abs(old);
      }
      // Below 1e-4 f16 is subnormal and has no relative precision.
      const double error = std::abs(got - want) / std::max(size, sizeof(C) == 2 ? 1e-4 : 1e-30);
      worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
    }
  }
  CHECK(padding_kept);
  CHECK(worst <= tolerance);
}

template <class F>
void for_cases(F&& f) {
  const Index sizes[][3] = {{1, 1, 1},     {1, 5, 3},    {5, 1, 7},     {2, 3, 64},
                            {16, 16, 16},  {17, 31, 9},  {64, 64, 64},  {64, 64, 128},
                            {33, 65, 127}, {7, 200, 48}, {130, 3, 70},  {3, 130, 1},
                            {48, 80, 33},  {9, 15, 600}, {12, 96, 1025}};
  for (const auto& s : sizes) {
    for (int trans = 0; trans < 4; ++trans) {
      for (const Index pad : {0, 1, 6}) {
        f(Case{s[0], s[1], s[2], (trans & 1) != 0, (trans & 2) != 0, 1, 0, pad});
        f(Case{s[0], s[1], s[2], (trans & 1) != 0, (trans & 2) != 0, -0.5, 1, pad});
      }
      f(Case{s[0], s[1], s[2], (trans & 1) != 0, (trans & 2) != 0, 2, 0.25, 0});
    }
  }
  // Nothing to sum: C = beta * C, and beta 0 clears NaN.
  f(Case{4, 9, 0});
  f(Case{4, 9, 0, true, true, 1, 0.5, 2});
  f(Case{0, 9, 4});
  f(Case{4, 0, 9});
}

template <class T, class C>
void check_gemm(double tolerance) {
  const auto product = [](const Case& t, const T* a, Index lda, const T* b, Index ldb, C* c,
                          Index ldc) {
    gemm<T, C>(t.ta, t.tb, t.m, t.n, t.k, t.alpha, a, lda, b, ldb, t.beta, c, ldc);
  };
  for_cases([&](const Case& t) { check_product<T, C>(t, tolerance, product); });
  for (int trans = 0; trans < 4; ++trans) {
    const bool ta = (trans & 1) != 0, tb = (trans & 2) != 0;
    check_product<T, C>(Case{257, 301, 129, ta, tb, 1, 0, 3}, tolerance, product);
    check_product<T, C>(Case{40, 72, 3000, ta, tb, 1, 1, 0}, tolerance, product);
    check_product<T, C>(Case{700, 20, 40, ta, tb, 1, 1, 0}, tolerance, product);
    check_product<T, C>(Case{65, 90, 70, ta, tb, 1, 0.5, 5}, tolerance, product);
    for (const Index pad : {0, 2}) {
      check_product<T, C>(Case{1, 300, 400, ta, tb, 1, 0, pad}, tolerance, product);
      check_product<T, C>(Case{300, 1, 400, ta, tb, 1, 1, pad}, tolerance, product);
      check_product<T, C>(Case{300, 400, 1, ta, tb, 1, 1, pad}, tolerance, product);
    }
    check_product<T, C>(Case{800, 770, 9, ta, tb, 1, -1, 1}, tolerance, product);
  }
}

template <class T>
void check_small(double tolerance) {
  const auto product = [](const Case& t, const T* a, Index lda, const T* b, Index ldb, acc_t<T>* c,
                          Index ldc) {
    const auto alpha = static_cast<acc_t<T>>(t.alpha), beta = static_cast<acc_t<T>>(t.beta);
    if (t.ta && t.tb) {
      small_gemm<true, true>(t.m, t.n, t.k, alpha, a, lda, b, ldb, beta, c, ldc);
    } else if (t.ta) {
      small_gemm<true, false>(t.m, t.n, t.k, alpha, a, lda, b, ldb, beta, c, ldc);
    } else if (t.tb) {
      small_gemm<false, true>(t.m, t.n, t.k, alpha, a, lda, b, ldb, beta, c, ldc);
    } else {
      small_gemm<false, false>(t.m, t.n, t.k, alpha, a, lda, b, ldb, beta, c, ldc);
    }
  };
  for_cases([&](const Case& t) { check_product<T, acc_t<T>>(t, tolerance, product); });
  // Every height and width of register block, with whole and ragged vectors.
  for (Index m = 1; m <= 14; ++m) {
    for (Index n = 1; n <= 70; n += m % 3 + 1) {
      check_product<T, acc_t<T>>(Case{m, n, 5, (m & 1) != 0, (n & 1) != 0, 1, 0, 1}, tolerance,
                                 product);
    }
  }
}

/// The matrix unit in plain loops. Tiles are NaN until they are set.
struct EmulatedUnit {
  struct Tile {
    std::array<std::array<float, 16>, 16> words;
  };
  static Tile& tile(int t) {
    thread_local std::array<Tile, 8> tiles;
    return tiles[static_cast<std::size_t>(t)];
  }
  static void begin() {
    for (int t = 0; t < 8; ++t) {
      for (auto& line : tile(t).words) {
        line.fill(std::numeric_limits<float>::quiet_NaN());
      }
    }
  }
  static void end() { begin(); }
  template <int T>
  static void zero() {
    tile(T) = {};
  }
  template <int T>
  static void load(const void* from, Index line) {
    for (std::size_t i = 0; i < 16; ++i) {
      std::memcpy(tile(T).words[i].data(),
                  static_cast<const char*>(from) + static_cast<Index>(i) * line, 64);
    }
  }
  template <int T>
  static void store(void* to, Index line) {
    for (std::size_t i = 0; i < 16; ++i) {
      std::memcpy(static_cast<char*>(to) + static_cast<Index>(i) * line, tile(T).words[i].data(),
                  64);
    }
  }
  template <int Sum, int A, int B>
  static void multiply() {
    const auto halves = [](float word) {
      const auto bits = std::bit_cast<std::uint32_t>(word);
      return std::pair(std::bit_cast<float>(bits << 16), std::bit_cast<float>(bits & 0xffff0000u));
    };
    for (std::size_t i = 0; i < 16; ++i) {
      for (std::size_t p = 0; p < 16; ++p) {
        const auto [a0, a1] = halves(tile(A).words[i][p]);
        for (std::size_t j = 0; j < 16; ++j) {
          const auto [b0, b1] = halves(tile(B).words[p][j]);
          float& sum = tile(Sum).words[i][j];
          sum += a0 * b0;
          sum += a1 * b1;
        }
      }
    }
  }
};

/// A product on the emulated unit; what an earlier one left in the buffers is NaN.
template <class C>
void emulated_gemm(const Case& t, const bf16* a, Index lda, const bf16* b, Index ldb, C* c,
                   Index ldc) {
  if (t.m == 0 || t.n == 0 || t.k == 0) {
    gemm<bf16, C>(t.ta, t.tb, t.m, t.n, t.k, t.alpha, a, lda, b, ldb, t.beta, c, ldc);
    return;
  }
  parallel_for(num_threads(), 1, [](Index, Index) {
    for (const int slot : {1, 2, 4}) {
      constexpr Index kWords = 1 << 16;
      std::fill_n(static_cast<float*>(detail::thread_scratch(slot, kWords * 4)), kWords,
                  std::numeric_limits<float>::quiet_NaN());
    }
  });
  const Operands<bf16, C> operands{t.ta,
                                   t.tb,
                                   t.m,
                                   t.n,
                                   t.k,
                                   static_cast<float>(t.alpha),
                                   a,
                                   lda,
                                   b,
                                   ldb,
                                   static_cast<float>(t.beta),
                                   c,
                                   ldc};
  detail::UnitProduct<EmulatedUnit, C>(operands).run();
}

/// The same bits from 1, 2, 3, 5 and 16 threads.
template <class C, class F>
void check_threads(F&& product) {
  const Case cases[] = {
      {512, 512, 512},       {96, 1000, 40},   {33, 700, 70, false, true},
      {300, 90, 3000, true}, {16, 2500, 1025}, {200, 64, 96, true, true, 0.5, 0.25}};
  for (const Case& t : cases) {
    const Index lda = t.ta ? t.m : t.k, ldb = t.tb ? t.k : t.n;
    const auto a = random_matrix<bf16>(t.ta ? t.k : t.m, lda, 1);
    const auto b = random_matrix<bf16>(t.tb ? t.n : t.k, ldb, 2);
    const auto before = random_matrix<C>(t.m, t.n, 3);
    std::vector<C> want;
    for (const int threads : {1, 2, 3, 5, 16}) {
      CAPTURE(t.m);
      CAPTURE(t.n);
      CAPTURE(t.k);
      CAPTURE(threads);
      set_num_threads(threads);
      auto c = before;
      product(t, a.data(), lda, b.data(), ldb, c.data(), t.n);
      want = want.empty() ? c : want;
      CHECK(std::memcmp(c.data(), want.data(), c.size() * sizeof(C)) == 0);
    }
  }
  set_num_threads(0);
}

TEST_SUITE("unit") {
  TEST_CASE("matrix unit, emulated: products of every shape") {
    const auto check = [&]<class C>(double tolerance) {
      const auto product = emulated_gemm<C>;
      for_cases([&](const Case& t) { check_product<bf16, C>(t, tolerance, product); });
      for (int trans = 0; trans < 4; ++trans) {
        const bool ta = (trans & 1) != 0, tb = (trans & 2) != 0;
        check_product<bf16, C>(Case{257, 301, 129, ta, tb, 1, 0, 3}, tolerance, product);
        check_product<bf16, C>(Case{40, 72, 3000, ta, tb, 1, 1, 0}, tolerance, product);
        check_product<bf16, C>(Case{40, 72, 1025, ta, tb, 0.5, 0.25, 1}, tolerance, product);
        check_product<bf16, C>(Case{20, 2100, 40, ta, tb, 1, 0, 0}, tolerance, product);
        for (Index m = 1; m <= 70; m += 9) {
          for (Index n = 1; n <= 70; n += 9) {
            check_product<bf16, C>(Case{m, n, m + n, ta, tb, 1, 1, 0}, tolerance, product);
          }
        }
      }
    };
    for (const int threads : {1, 5, 0}) {
      set_num_threads(threads);
      check.operator()<float>(1e-6);
      check.operator()<bf16>(6e-3);
    }
  }
  TEST_CASE("matrix unit, emulated: what lies beside the operands is not read into sums") {
    // Views into NaN: A, B and C are the middle of larger matrices.
    const Index m = 37, n = 45, k = 51, ld = 128;
    for (int trans = 0; trans < 4; ++trans) {
      const bool ta = (trans & 1) != 0, tb = (trans & 2) != 0;
      std::vector<bf16> a(128 * 128, bf16(std::numeric_limits<float>::quiet_NaN())), b(a);
      const Index at = 32 * ld + 32;
      const auto set = [&](std::vector<bf16>& x, Index rows, Index cols) {
        for (Index i = 0; i < rows; ++i) {
          std::fill_n(x.begin() + at + i * ld, cols, bf16(1.0f));
        }
      };
      set(a, ta ? k : m, ta ? m : k);
      set(b, tb ? n : k, tb ? k : n);
      std::vector<float> c(128 * 128, -7.0f);
      emulated_gemm<float>({m, n, k, ta, tb}, a.data() + at, ld, b.data() + at, ld, c.data() + at,
                           ld);
      Index wrong = 0;
      for (Index i = 0; i < 128; ++i) {
        for (Index j = 0; j < 128; ++j) {
          const bool inside = i >= 32 && i < 32 + m && j >= 32 && j < 32 + n;
          wrong += c[static_cast<std::size_t>(i * ld + j)] != (inside ? float(k) : -7.0f);
        }
      }
      CHECK(wrong == 0);
    }
  }
  TEST_CASE("matrix unit, emulated: the same bits for any number of threads") {
    check_threads<float>(emulated_gemm<float>);
    check_threads<bf16>(emulated_gemm<bf16>);
  }
  TEST_CASE("gemm bf16: the same bits for any number of threads") {
    const auto product = [](const Case& t, const bf16* a, Index lda, const bf16* b, Index ldb,
                            auto* c, Index ldc) {
      gemm(t.ta, t.tb, t.m, t.n, t.k, t.alpha, a, lda, b, ldb, t.beta, c, ldc);
    };
    check_threads<float>(product);
    check_threads<bf16>(product);
  }

  TEST_CASE("gemm f64") {
    check_gemm<double, double>(1e-15);
  }
  TEST_CASE("gemm f32") {
    check_gemm<float, float>(1e-6);
  }
  TEST_CASE("gemm bf16 -> f32") {
    check_gemm<bf16, float>(1e-6);
  }
  TEST_CASE("gemm bf16 -> bf16") {
    check_gemm<bf16, bf16>(6e-3);
  }
  TEST_CASE("gemm f16 -> f32") {
    check_gemm<f16, float>(1e-6);
  }
  TEST_CASE("gemm f16 -> f16") {
    check_gemm<f16, f16>(1e-3);
  }
  TEST_CASE("small_gemm f64") {
    check_small<double>(1e-15);
  }
  TEST_CASE("small_gemm f32") {
    check_small<float>(1e-6);
  }
  TEST_CASE("small_gemm bf16") {
    check_small<bf16>(1e-6);
  }

  TEST_CASE("gemm keeps NaN and infinity of its operands") {
    const float inf = std::numeric_limits<float>::infinity();
    std::vector<float> a(20 * 20, 1.0f), b(20 * 20, 1.0f), c(20 * 20);
    a[3 * 20 + 4] = inf;
    a[5 * 20 + 4] = -inf;
    b[4 * 20 + 7] = 0.0f;
    gemm(false, false, 20, 20, 20, 1, a.data(), 20, b.data(), 20, 0, c.data(), 20);
    CHECK(c[0] == 20);
    CHECK(c[3 * 20] == inf);
    CHECK(c[5 * 20] == -inf);
    CHECK(std::isnan(c[3 * 20 + 7]));
    CHECK(c[4 * 20 + 7] == 19);
  }

  TEST_CASE("gemm_batched: strides, shared operand, one or many threads") {
    for (const Index batch : {0, 1, 2, 37}) {
      for (const Index m : {3, 40, 150}) {
        const Index n = 33, k = 21, sc = m * n + 5;
        const auto a = random_matrix<float>(batch, m * k + 2, 5);
        const auto b = random_matrix<float>(1, k * n, 6);
        std::vector<float> c(static_cast<std::size_t>(batch * sc), -7.0f);
        gemm_batched(DType::kF32, DType::kF32, false, false, batch, m, n, k, 1, a.data(), k,
                     m * k + 2, b.data(), n, 0, 0, c.data(), n, sc);
        double worst = 0;
        for (Index s = 0; s < batch; ++s) {
          for (Index i = 0; i < m; ++i) {
            for (Index j = 0; j < n; ++j) {
              double want = 0;
              for (Index p = 0; p < k; ++p) {
                want +=
                    static_cast<double>(a[static_cast<std::size_t>(s * (m * k + 2) + i * k + p)]) *
                    b[static_cast<std::size_t>(p * n + j)];
              }
              const double error = std::abs(c[static_cast<std::size_t>(s * sc + i * n + j)] - want);
              worst = std::isnan(error) ? 1e9 : std::max(worst, error);
            }
          }
          CHECK(c[static_cast<std::size_t>(s * sc + m * n)] == -7.0f);
        }
        CHECK(worst < 1e-5);
      }
    }
  }

  TEST_CASE("gemm inside a parallel loop and with other thread counts") {
    const auto a = random_matrix<float>(96, 96, 1), b = random_matrix<float>(96, 96, 2);
    std::vector<float> want(96 * 96), got(4 * 96 * 96);
    gemm(false, true, 96, 96, 96, 1, a.data(), 96, b.data(), 96, 0, want.data(), 96);
    parallel_for(4, 1, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        gemm(false, true, 96, 96, 96, 1, a.data(), 96, b.data(), 96, 0, got.data() + i * 96 * 96,
             96);
      }
    });
    for (std::size_t i = 0; i < got.size(); ++i) {
      REQUIRE(std::abs(got[i] - want[i % want.size()]) < 1e-5);
    }
    for (const int threads : {1, 3, 0}) {
      set_num_threads(threads);
      gemm(false, true, 96, 96, 96, 1, a.data(), 96, b.data(), 96, 0, got.data(), 96);
      for (std::size_t i = 0; i < want.size(); ++i) {
        REQUIRE(std::abs(got[i] - want[i]) < 1e-5);
      }
    }
  }

  TEST_CASE("gemm over long columns: the same bits for any number of threads") {
    const Index sizes[][3] = {
        {64, 64, 1024}, {512, 64, 1100}, {96, 33, 2100}, {200, 160, 4096}, {100, 50, 4096}};
    for (const auto& [m, n, k] : sizes) {
      const auto a = random_matrix<float>(k, m, 1), b = random_matrix<float>(k, n, 2);
      for (const double beta : {0.0, 1.0}) {
        std::vector<float> want;
        for (const int threads : {1, 2, 3, 5, 16}) {
          CAPTURE(m);
          CAPTURE(threads);
          set_num_threads(threads);
          std::vector<float> c(static_cast<std::size_t>(m * n), 0.5f);
          gemm(true, false, m, n, k, 1, a.data(), m, b.data(), n, beta, c.data(), n);
          want = want.empty() ? c : want;
          CHECK(c == want);
        }
      }
    }
    set_num_threads(0);
  }

  TEST_CASE("gemm over very long columns: the error does not grow with their length") {
    const Index n = 16, k = 1 << 18;
    auto a = random_matrix<float>(k, n, 1), b = random_matrix<float>(k, n, 2);
    for (std::size_t i = 0; i < a.size(); ++i) {
      a[i] += 1, b[i] += 1;  // a sum that grows, so that each addition rounds more than the last
    }
    std::vector<float> c(static_cast<std::size_t>(n * n));
    gemm(true, false, n, n, k, 1, a.data(), n, b.data(), n, 0, c.data(), n);
    double square = 0, scale = 0;
    for (std::size_t i = 0; i < c.size(); ++i) {
      double want = 0;
      for (std::size_t p = 0; p < static_cast<std::size_t>(k); ++p) {
        want += static_cast<double>(a[p * n + i / n]) * b[p * n + i % n];
      }
      square += (c[i] - want) * (c[i] - want);
      scale += want * want;
    }
    CHECK(std::sqrt(square / scale) < 2e-7);
  }

  TEST_CASE("gemm refuses wrong strides and types") {
    float x[16] = {};
    CHECK_THROWS_AS(gemm(false, false, 2, 2, 4, 1, x, 3, x, 2, 0, x + 8, 2), Error);
    CHECK_THROWS_AS(gemm(false, false, -1, 2, 4, 1, x, 4, x, 2, 0, x + 8, 2), Error);
    CHECK_THROWS_AS(gemm(DType::kF32, DType::kBF16, false, false, 1, 1, 1, 1, x, 1, x, 1, 0, x, 1),
                    Error);
    CHECK_THROWS_AS(gemm(DType::kI32, DType::kI32, false, false, 1, 1, 1, 1, x, 1, x, 1, 0, x, 1),
                    Error);
  }
}

}  // namespace
}  // namespace ls
