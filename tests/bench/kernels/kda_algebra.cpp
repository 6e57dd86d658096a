// Checks the chunk algebra of Kimi Delta Attention against the recurrence, both in f64: exits 1
// when any result differs by more than rounding, or by more than the bound of the gates allows.
#include <cmath>
#include <cstdio>
#include <random>

#include "kda_reference.h"

namespace {

using ls::kernels::KdaChain;
using ls::kernels::KdaResult;

/// The largest difference over the largest value; NaN where anything is.
double difference(const std::vector<double>& a, const std::vector<double>& b, double least) {
  double worst = 0, size = least;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(a[i] - b[i]);
    if (!(d <= worst)) {
      worst = d;
    }
    size = std::fmax(size, std::abs(b[i]));
  }
  return a.size() == b.size() && !a.empty() ? worst / size : NAN;
}

/// Gates: -gate times a uniform number a channel and token, or that of every third token alone.
KdaChain random_chain(int t, int dk, int dv, double gate, double beta, bool rare, unsigned seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  KdaChain c{t, dk, dv, 0.3, {}, {}, {}, {}, {}, {}, {}, {}};
  const auto fill = [&](std::vector<double>& x, int n, double size) {
    x.resize(static_cast<std::size_t>(n));
    for (double& e : x) {
      e = size * normal(engine);
    }
  };
  fill(c.q, t * dk, 1);
  fill(c.k, t * dk, 1 / std::sqrt(dk));
  fill(c.v, t * dv, 1);
  fill(c.s0, dk * dv, 1);
  fill(c.go, t * dv, 1);
  fill(c.gs, dk * dv, 1);
  for (int i = 0; i < t; ++i) {
    for (int d = 0; d < dk; ++d) {
      const double g = -gate * uniform(engine);
      c.g.push_back(rare && (i + d) % 3 != 0 ? -.1 : g);
    }
    c.beta.push_back(i % 7 == 3 ? 0 : beta * uniform(engine));  // a zero now and then
  }
  return c;
}

}  // namespace

int main() {
  bool good = true;
  unsigned seed = 1;
  for (const int t : {1, 15, 16, 17, 37, 64}) {
    for (const double gate : {0.0, 0.05, 1.0, 8.0, 300.0}) {
      for (const bool rare : {false, true}) {
        const KdaChain c = random_chain(t, 12, 9, gate, t % 2 ? 1 : 1.8, rare, seed++);
        const KdaResult a = ls::kernels::kda_by_token(c), b = ls::kernels::kda_by_chunk(c, 16);
        // Gates below the bound decay to 2e-4 of what they meet instead of to less.
        const double limit = gate > 8 ? 2e-3 : 1e-10, least = gate > 8 ? 1 : 1e-300;
        const double worst[] = {
            difference(b.o, a.o, least),         difference(b.s, a.s, least),
            difference(b.dq, a.dq, least),       difference(b.dk, a.dk, least),
            difference(b.dv, a.dv, least),       difference(b.dg, a.dg, least),
            difference(b.dbeta, a.dbeta, least), difference(b.ds0, a.ds0, least)};
        for (const double w : worst) {
          good = good && w < limit;
        }
        std::printf(
            "T %2d gate %6.2f%s o %.1e s %.1e dq %.1e dk %.1e dv %.1e dg %.1e dbeta %.1e ds0 "
            "%.1e\n",
            t, gate, rare ? " rare:" : ":     ", worst[0], worst[1], worst[2], worst[3], worst[4],
            worst[5], worst[6], worst[7]);
      }
    }
  }
  std::printf("%s\n", good ? "ok" : "FAILED");
  return good ? 0 : 1;
}
