// The chunk algebra of the kernels against the recurrence, f64 on the host: no GPU is needed.
#include <cmath>
#include <cstdio>
#include <random>

#include "decayed_linear_reference.h"

int main() {
  using namespace ls::kernels;
  bool good = true;
  std::mt19937 engine(7);
  std::normal_distribution<double> normal;
  for (const int gates : {1, 12}) {
    for (const double strength : {0., .01, .5, 6.}) {
      for (const int tokens : {1, 15, 16, 17, 61}) {
        LinearChain in{tokens, 12, 9, gates, .3, {}, {}, {}, {}, {}, {}, {}};
        const auto fill = [&](std::vector<double>& to, int n) {
          to.resize(static_cast<std::size_t>(n));
          for (double& x : to) {
            x = normal(engine);
          }
        };
        fill(in.q, tokens * 12);
        fill(in.k, tokens * 12);
        fill(in.v, tokens * 9);
        fill(in.go, tokens * 9);
        fill(in.g, tokens * gates);
        fill(in.s0, 12 * 9);
        fill(in.gs, 12 * 9);
        for (double& x : in.g) {
          x = -strength * std::abs(x);
        }
        const LinearResult a = linear_by_token(in), b = linear_by_chunk(in, 16);
        double worst = 0;
        const auto compare = [&](const std::vector<double>& x, const std::vector<double>& y) {
          good = good && x.size() == y.size();
          for (std::size_t i = 0; i < x.size(); ++i) {
            const double d = std::abs(x[i] - y[i]);
            worst = d <= worst ? worst : d;
          }
        };
        compare(a.o, b.o);
        compare(a.s, b.s);
        compare(a.dq, b.dq);
        compare(a.dk, b.dk);
        compare(a.dv, b.dv);
        compare(a.dg, b.dg);
        compare(a.ds0, b.ds0);
        if (!(worst < 1e-10)) {
          std::printf("gates %d strength %g T %d: %g\n", gates, strength, tokens, worst);
          good = false;
        }
      }
    }
  }
  std::printf("%s\n", good ? "chunk algebra agrees with the recurrence" : "FAILED");
  return good ? 0 : 1;
}
