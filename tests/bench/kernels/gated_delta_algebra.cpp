// Checks the chunk algebra of the gated delta rule against the recurrence, both in f64, and where
// the kernels put the chunks of packed documents: exits 1 when any result differs by more than
// rounding.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>

#include "gated_delta_reference.h"

namespace {

using ls::kernels::DeltaChain;
using ls::kernels::DeltaResult;

double difference(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(a[i] - b[i]);
    if (!(d <= worst)) {
      worst = d;  // NaN stays
    }
    size = std::fmax(size, std::abs(b[i]));
  }
  return a.size() == b.size() && !a.empty() ? worst / size : NAN;
}

DeltaChain random_chain(int t, int dk, int dv, double gate, double beta, double length,
                        unsigned seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  DeltaChain c{t, dk, dv, 0.3, {}, {}, {}, {}, {}, {}, {}, {}};
  const auto fill = [&](std::vector<double>& x, int n, double size) {
    x.resize(static_cast<std::size_t>(n));
    for (double& e : x) {
      e = size * normal(engine);
    }
  };
  fill(c.q, t * dk, 1);
  fill(c.k, t * dk, length / std::sqrt(dk));
  fill(c.v, t * dv, 1);
  fill(c.s0, dk * dv, 1);
  fill(c.go, t * dv, 1);
  fill(c.gs, dk * dv, 1);
  for (int i = 0; i < t; ++i) {
    c.g.push_back(-gate * uniform(engine));
    c.beta.push_back(i % 7 == 3 ? 0 : beta * uniform(engine));  // a zero now and then
  }
  return c;
}

/// One comparison at a size; prints its line.
bool agree(const DeltaChain& c, int chunk, double gate) {
  const DeltaResult a = delta_by_token(c), b = delta_by_chunk(c, chunk);
  const double worst[] = {difference(b.o, a.o),         difference(b.s, a.s),
                          difference(b.dq, a.dq),       difference(b.dk, a.dk),
                          difference(b.dv, a.dv),       difference(b.dg, a.dg),
                          difference(b.dbeta, a.dbeta), difference(b.ds0, a.ds0)};
  bool good = true;
  for (const double w : worst) {
    good = good && w < 1e-10;
  }
  std::printf(
      "T %3d Dk %3d Dv %3d gate %4.2f: o %.1e s %.1e dq %.1e dk %.1e dv %.1e dg %.1e dbeta %.1e "
      "ds0 %.1e\n",
      c.t, c.dk, c.dv, gate, worst[0], worst[1], worst[2], worst[3], worst[4], worst[5], worst[6],
      worst[7]);
  return good;
}

/// The kernels make gradients of q, k and g from halves of the key columns: products with the state
/// and <S, dS'> split over them, the 64x64 matrices do not. Here: the first half of dq's columns
/// needs of the state its own rows only, which is what lets a half be made alone.
bool halves_are_separate() {
  DeltaChain c = random_chain(24, 16, 6, .3, 1, 1, 77);
  std::vector<ls::kernels::DeltaChunk> chunks;
  const DeltaResult whole = delta_by_chunk(c, 8, &chunks);
  double worst = 0, size = 0;
  for (int n = 0; n < 3; ++n) {
    for (int t = 0; t < 8; ++t) {
      double decay = 0;
      for (int i = 0; i <= t; ++i) {
        decay += c.g[static_cast<std::size_t>(8 * n + i)];
      }
      for (int d = 0; d < 16; ++d) {
        const auto at = [](int row, int columns, int column) {
          return static_cast<std::size_t>(row * columns + column);
        };
        const auto& z = chunks[static_cast<std::size_t>(n)];
        double sum = 0;
        for (int v = 0; v < 6; ++v) {
          sum += c.scale * std::exp(decay) * c.go[at(8 * n + t, 6, v)] * z.s[at(d, 6, v)];
        }
        for (int j = 0; j <= t; ++j) {
          double late = 0, score = 0;
          for (int i = j + 1; i <= t; ++i) {
            late += c.g[static_cast<std::size_t>(8 * n + i)];
          }
          for (int v = 0; v < 6; ++v) {
            score += c.go[at(8 * n + t, 6, v)] * z.x[at(j, 6, v)];
          }
          sum += c.scale * std::exp(late) * c.beta[static_cast<std::size_t>(8 * n + j)] * score *
                 c.k[at(8 * n + j, 16, d)];
        }
        worst = std::fmax(worst, std::abs(sum - whole.dq[at(8 * n + t, 16, d)]));
        size = std::fmax(size, std::abs(sum));
      }
    }
  }
  std::printf("columns of dq by themselves: %.1e\n", worst / size);
  return worst < 1e-10 * size;
}

/// Document n's chunks begin at record offset / 64 + n: no two documents share a record, and all
/// lie below tokens / 64 + documents.
bool documents_have_room() {
  std::mt19937_64 engine(5);
  for (int round = 0; round < 2000; ++round) {
    const int documents = 1 + static_cast<int>(engine() % 20);
    std::int64_t offset = 0, free = 0;
    for (int n = 0; n < documents; ++n) {
      const auto length = static_cast<std::int64_t>(engine() % (round % 2 ? 200 : 4));
      const std::int64_t first = offset / 64 + n;
      if (first < free) {
        std::printf("documents: record %lld is taken twice\n", static_cast<long long>(first));
        return false;
      }
      free = first + (length + 63) / 64;
      offset += length;
    }
    if (free > offset / 64 + documents) {
      std::printf("documents: %lld records do not fit\n", static_cast<long long>(free));
      return false;
    }
  }
  std::printf("documents: every chunk has a record\n");
  return true;
}

}  // namespace

int main() {
  bool good = true;
  unsigned seed = 1;
  for (const int t : {1, 15, 16, 17, 37, 64}) {
    for (const double gate : {0.0, 0.05, 1.0, 30.0}) {
      good = agree(random_chain(t, 12, 9, gate, t % 2 ? 1 : 1.8, 1, seed++), 16, gate) && good;
    }
  }
  for (const int dk : {32, 64, 256}) {  // the kernels' chunk and widths
    good = agree(random_chain(131, dk, dk == 256 ? 96 : dk, .05, 1.8, 1, seed++), 64, .05) && good;
  }
  good = halves_are_separate() && good;
  good = documents_have_room() && good;
  std::printf("%s\n", good ? "ok" : "FAILED");
  return good ? 0 : 1;
}
