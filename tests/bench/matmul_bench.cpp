// f32 matrix products against the libraries of the distribution, on the same threads.
// usage: matmul_bench [ROUNDS]
// For each size and layout ours and every library found take turns, A B C A B C; the table has the
// median GFLOP/s of each and the median over the rounds of ours over the fastest library's. bf16
// has no peer among them and is shown against our f32. Exit status 1 when f32 at 512 to 2048 is
// below 90 % of the fastest library.
#include <dlfcn.h>
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/backend/cpu/gemm.h"
#include "core/base/parallel_for.h"

namespace {
using ls::bf16;
using ls::Index;

struct Layout {
  const char* name;
  bool trans_a, trans_b;
};
struct Sizes {
  Index m, n, k;
};

/// One library's f32 product: row-major, alpha 1, beta 0.
struct Library {
  std::string name;
  void* product;
  bool cblas;  // else oneDNN's dnnl_sgemm
  void run(const Layout& l, const Sizes& s, const float* a, const float* b, float* c) const {
    const Index lda = l.trans_a ? s.m : s.k, ldb = l.trans_b ? s.k : s.n;
    if (cblas) {
      using Function = void (*)(int, int, int, int, int, int, float, const float*, int,
                                const float*, int, float, float*, int);
      constexpr int kRowMajor = 101, kPlain = 111, kTransposed = 112;
      const auto i = [](Index x) { return static_cast<int>(x); };
      reinterpret_cast<Function>(product)(kRowMajor, l.trans_a ? kTransposed : kPlain,
                                          l.trans_b ? kTransposed : kPlain, i(s.m), i(s.n), i(s.k),
                                          1.0f, a, i(lda), b, i(ldb), 0.0f, c, i(s.n));
    } else {
      using Function = int (*)(char, char, Index, Index, Index, float, const float*, Index,
                               const float*, Index, float, float*, Index);
      reinterpret_cast<Function>(product)(l.trans_a ? 'T' : 'N', l.trans_b ? 'T' : 'N', s.m, s.n,
                                          s.k, 1.0f, a, lda, b, ldb, 0.0f, c, s.n);
    }
  }
};

std::vector<Library> libraries() {
  struct Candidate {
    const char *name, *file, *symbol;
  };
  constexpr Candidate kCandidates[] = {
      {"OpenBLAS", "libopenblas.so.0", "cblas_sgemm"},
      {"BLIS", "libblis.so.4", "cblas_sgemm"},
      {"oneDNN", "libdnnl.so.2", "dnnl_sgemm"},
      {"oneDNN", "libdnnl.so.3", "dnnl_sgemm"},
  };
  std::vector<Library> out;
  for (const Candidate& c : kCandidates) {
    void* const handle = dlopen(c.file, RTLD_NOW | RTLD_LOCAL);
    if (void* const symbol = handle ? dlsym(handle, c.symbol) : nullptr) {
      out.push_back({c.name, symbol, std::string(c.symbol) == "cblas_sgemm"});
    }
  }
  return out;
}

double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

/// Seconds of a call; short ones are repeated.
template <class F>
double seconds(int repeats, F&& f) {
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) {
    f();
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / repeats;
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 21;
  const std::string threads = std::to_string(ls::num_threads());
  for (const char* variable : {"OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS"}) {
    setenv(variable, threads.c_str(), 1);  // read when they are loaded
  }
  const std::vector<Library> peers = libraries();
  fmt::print("{} threads, {} rounds\n\n| m n k | layout | ours f32 |", threads, rounds);
  for (const Library& p : peers) {
    fmt::print(" {} |", p.name);
  }
  fmt::print(" ours / fastest | ours bf16 |\n| --- | --- | --- |{} --- | --- |\n", [&] {
    std::string dashes;
    for (std::size_t i = 0; i < peers.size(); ++i) {
      dashes += " --- |";
    }
    return dashes;
  }());

  bool missed = false;
  const Layout layouts[] = {{"A B", false, false}, {"A B^T", false, true}, {"A^T B", true, false}};
  const Sizes sizes[] = {{256, 256, 256},    {512, 512, 512},   {1024, 1024, 1024},
                         {2048, 2048, 2048}, {4096, 1024, 128}, {4096, 256, 1024}};
  for (const Sizes& s : sizes) {
    const bool judged = s.m == s.n && s.n == s.k && s.m >= 512;
    std::vector<float> a(static_cast<std::size_t>(s.m * s.k)),
        b(static_cast<std::size_t>(s.k * s.n)), c(static_cast<std::size_t>(s.m * s.n)), expected(c);
    for (std::size_t i = 0; i < a.size(); ++i) {
      a[i] = static_cast<float>(i % 17) - 8;
    }
    for (std::size_t i = 0; i < b.size(); ++i) {
      b[i] = static_cast<float>(i % 13) - 6;
    }
    const std::vector<bf16> narrow_a(a.begin(), a.end()), narrow_b(b.begin(), b.end());
    std::vector<bf16> narrow_c(c.size());
    const double flop =
        2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k);
    const int repeats = std::max(1, static_cast<int>(2e8 / flop));
    for (const Layout& l : layouts) {
      const Index lda = l.trans_a ? s.m : s.k, ldb = l.trans_b ? s.k : s.n;
      const auto ours = [&] {
        ls::gemm<float>(l.trans_a, l.trans_b, s.m, s.n, s.k, 1, a.data(), lda, b.data(), ldb, 0,
                        c.data(), s.n);
      };
      const auto ours_narrow = [&] {
        ls::gemm<bf16>(l.trans_a, l.trans_b, s.m, s.n, s.k, 1, narrow_a.data(), lda,
                       narrow_b.data(), ldb, 0, narrow_c.data(), s.n);
      };
      ours();
      for (const Library& p : peers) {
        p.run(l, s, a.data(), b.data(), expected.data());
        for (std::size_t i = 0; i < c.size(); ++i) {
          if (!(std::abs(c[i] - expected[i]) <= 1e-3f * (1 + std::abs(expected[i])))) {
            fmt::print(stderr, "{} and ours differ at {}: {} and {}\n", p.name, i, expected[i],
                       c[i]);
            return 2;
          }
        }
      }
      std::vector<double> own, narrow, ratio;
      std::vector<std::vector<double>> theirs(peers.size());
      for (int round = 0; round < rounds; ++round) {
        own.push_back(seconds(repeats, ours));
        double fastest = INFINITY;
        for (std::size_t p = 0; p < peers.size(); ++p) {
          theirs[p].push_back(
              seconds(repeats, [&] { peers[p].run(l, s, a.data(), b.data(), expected.data()); }));
          fastest = std::min(fastest, theirs[p].back());
        }
        narrow.push_back(seconds(repeats, ours_narrow));
        ratio.push_back(fastest / own.back());
      }
      fmt::print("| {} {} {} | {} | {:.0f} |", s.m, s.n, s.k, l.name, flop / median(own) / 1e9);
      for (const std::vector<double>& t : theirs) {
        fmt::print(" {:.0f} |", flop / median(t) / 1e9);
      }
      const double share = median(ratio);
      const bool miss = judged && !peers.empty() && share < 0.9;
      missed = missed || miss;
      fmt::print(" {} | {:.0f} |\n",
                 peers.empty() ? "-" : fmt::format("{:.2f}{}", share, miss ? " (missed)" : ""),
                 flop / median(narrow) / 1e9);
      std::fflush(stdout);
    }
  }
  return missed ? 1 : 0;
}
