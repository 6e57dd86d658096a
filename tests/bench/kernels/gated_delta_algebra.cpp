// Checks the chunk algebra of the gated delta rule against the recurrence, both in f64: exits 1
// when any result differs by more than rounding.
#include <cmath>
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

}  // namespace

int main() {
  bool good = true;
  unsigned seed = 1;
  for (const int t : {1, 15, 16, 17, 37, 64}) {
    for (const double gate : {0.0, 0.05, 1.0, 30.0}) {
      const DeltaChain c = random_chain(t, 12, 9, gate, t % 2 ? 1 : 1.8, 1, seed++);
      const DeltaResult a = delta_by_token(c), b = delta_by_chunk(c, 16);
      const double worst[] = {difference(b.o, a.o),         difference(b.s, a.s),
                              difference(b.dq, a.dq),       difference(b.dk, a.dk),
                              difference(b.dv, a.dv),       difference(b.dg, a.dg),
                              difference(b.dbeta, a.dbeta), difference(b.ds0, a.ds0)};
      for (const double w : worst) {
        good = good && w < 1e-10;
      }
      std::printf(
          "T %2d gate %4.2f: o %.1e s %.1e dq %.1e dk %.1e dv %.1e dg %.1e dbeta %.1e ds0 %.1e\n",
          t, gate, worst[0], worst[1], worst[2], worst[3], worst[4], worst[5], worst[6], worst[7]);
    }
  }
  std::printf("%s\n", good ? "ok" : "FAILED");
  return good ? 0 : 1;
}
