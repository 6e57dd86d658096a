#include "decayed_linear_reference.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace ls::kernels {
namespace {

using Vector = std::vector<double>;

LinearResult sized(const LinearChain& in) {
  LinearResult r;
  r.o.assign(in.v.size(), 0);
  r.s = in.s0;
  r.dq.assign(in.q.size(), 0);
  r.dk.assign(in.k.size(), 0);
  r.dv.assign(in.v.size(), 0);
  r.dg.assign(in.g.size(), 0);
  r.ds0 = in.gs;
  return r;
}

double decay_of(const LinearChain& in, int t, int x) {
  return in.gates == 1 ? in.g[static_cast<std::size_t>(t)]
                       : in.g[static_cast<std::size_t>(t) * in.dk + x];
}

void advance(const LinearChain& in, int t, Vector& s) {
  const double* k = &in.k[static_cast<std::size_t>(t) * in.dk];
  const double* v = &in.v[static_cast<std::size_t>(t) * in.dv];
  for (int x = 0; x < in.dk; ++x) {
    const double decay = std::exp(decay_of(in, t, x));
    double* row = &s[static_cast<std::size_t>(x) * in.dv];
    for (int y = 0; y < in.dv; ++y) {
      row[y] = decay * row[y] + k[x] * v[y];
    }
  }
}

}  // namespace

LinearResult linear_by_token(const LinearChain& in) {
  constexpr int kKept = 128;  // states are kept at every so many tokens, the rest made again
  LinearResult r = sized(in);
  std::vector<Vector> kept;
  for (int t = 0; t < in.t; ++t) {
    if (t % kKept == 0) {
      kept.push_back(r.s);
    }
    advance(in, t, r.s);
    const double* q = &in.q[static_cast<std::size_t>(t) * in.dk];
    double* o = &r.o[static_cast<std::size_t>(t) * in.dv];
    for (int x = 0; x < in.dk; ++x) {
      const double w = in.scale * q[x];
      const double* row = &r.s[static_cast<std::size_t>(x) * in.dv];
      for (int y = 0; y < in.dv; ++y) {
        o[y] += w * row[y];
      }
    }
  }
  Vector& ds = r.ds0;
  std::vector<Vector> states;
  for (int t = in.t - 1; t >= 0; --t) {
    const int first = t / kKept * kKept;
    if (states.empty()) {
      states.push_back(kept[static_cast<std::size_t>(t / kKept)]);
      for (int i = first; i <= t; ++i) {
        states.push_back(states.back());
        advance(in, i, states.back());
      }
    }
    const Vector now = std::move(states.back());
    states.pop_back();
    const Vector& before = states.back();
    const double* q = &in.q[static_cast<std::size_t>(t) * in.dk];
    const double* k = &in.k[static_cast<std::size_t>(t) * in.dk];
    const double* v = &in.v[static_cast<std::size_t>(t) * in.dv];
    const double* go = &in.go[static_cast<std::size_t>(t) * in.dv];
    double* dv = &r.dv[static_cast<std::size_t>(t) * in.dv];
    for (int x = 0; x < in.dk; ++x) {
      const double decay = std::exp(decay_of(in, t, x)), w = in.scale * q[x];
      const std::size_t at = static_cast<std::size_t>(x) * in.dv;
      double dq = 0, dk = 0, dg = 0;
      for (int y = 0; y < in.dv; ++y) {
        double& d = ds[at + y];
        d += w * go[y];
        dq += now[at + y] * go[y];
        dk += d * v[y];
        dv[y] += d * k[x];
        dg += d * before[at + y];
        d *= decay;
      }
      r.dq[static_cast<std::size_t>(t) * in.dk + x] = in.scale * dq;
      r.dk[static_cast<std::size_t>(t) * in.dk + x] = dk;
      r.dg[in.gates == 1 ? static_cast<std::size_t>(t) : static_cast<std::size_t>(t) * in.dk + x] +=
          decay * dg;
    }
    if (t == first) {
      states.clear();
    }
  }
  return r;
}

LinearResult linear_by_chunk(const LinearChain& in, int chunk) {
  LinearResult r = sized(in);
  const int chunks = (in.t + chunk - 1) / chunk, dk = in.dk, dv = in.dv;
  // Running sums of log decays within the chunk, per channel.
  Vector sum(static_cast<std::size_t>(in.t) * dk);
  const auto g = [&](int t, int x) { return sum[static_cast<std::size_t>(t) * dk + x]; };
  for (int t = 0; t < in.t; ++t) {
    for (int x = 0; x < dk; ++x) {
      sum[static_cast<std::size_t>(t) * dk + x] =
          (t % chunk ? g(t - 1, x) : 0) + decay_of(in, t, x);
    }
  }
  const auto at = [](const Vector& m, int row, int column, int width) {
    return m[static_cast<std::size_t>(row) * width + column];
  };
  const auto to = [](Vector& m, int row, int column, int width) -> double& {
    return m[static_cast<std::size_t>(row) * width + column];
  };
  std::vector<Vector> states;
  Vector s = in.s0;
  for (int n = 0; n < chunks; ++n) {
    const int first = n * chunk, last = std::min(in.t, first + chunk);
    states.push_back(s);
    for (int t = first; t < last; ++t) {
      for (int x = 0; x < dk; ++x) {
        const double read = in.scale * std::exp(g(t, x)) * at(in.q, t, x, dk);
        for (int y = 0; y < dv; ++y) {
          to(r.o, t, y, dv) += read * at(s, x, y, dv);
        }
      }
      for (int i = first; i <= t; ++i) {
        double p = 0;
        for (int x = 0; x < dk; ++x) {
          p += in.scale * at(in.q, t, x, dk) * at(in.k, i, x, dk) * std::exp(g(t, x) - g(i, x));
        }
        for (int y = 0; y < dv; ++y) {
          to(r.o, t, y, dv) += p * at(in.v, i, y, dv);
        }
      }
    }
    for (int x = 0; x < dk; ++x) {
      for (int y = 0; y < dv; ++y) {
        double& e = to(s, x, y, dv);
        e *= std::exp(g(last - 1, x));
        for (int t = first; t < last; ++t) {
          e += std::exp(g(last - 1, x) - g(t, x)) * at(in.k, t, x, dk) * at(in.v, t, y, dv);
        }
      }
    }
  }
  r.s = s;
  Vector ds = in.gs;
  for (int n = chunks - 1; n >= 0; --n) {
    const int first = n * chunk, last = std::min(in.t, first + chunk);
    const Vector& state = states[static_cast<std::size_t>(n)];
    Vector through(static_cast<std::size_t>(in.gates));
    const auto gate = [&](int x) { return in.gates == 1 ? 0 : x; };
    for (int x = 0; x < dk; ++x) {
      double passed = 0;
      for (int y = 0; y < dv; ++y) {
        passed += at(state, x, y, dv) * at(ds, x, y, dv);
      }
      through[static_cast<std::size_t>(gate(x))] += std::exp(g(last - 1, x)) * passed;
    }
    for (int t = first; t < last; ++t) {
      for (int x = 0; x < dk; ++x) {
        double q = 0, k = 0;
        for (int y = 0; y < dv; ++y) {
          q += at(in.go, t, y, dv) * at(state, x, y, dv);
          k += at(in.v, t, y, dv) * at(ds, x, y, dv);
        }
        to(r.dq, t, x, dk) = in.scale * std::exp(g(t, x)) * q;
        const double from_state = std::exp(g(last - 1, x) - g(t, x)) * k;
        to(r.dk, t, x, dk) = from_state;
        through[static_cast<std::size_t>(gate(x))] += from_state * at(in.k, t, x, dk);
        for (int y = 0; y < dv; ++y) {
          to(r.dv, t, y, dv) +=
              std::exp(g(last - 1, x) - g(t, x)) * at(in.k, t, x, dk) * at(ds, x, y, dv);
        }
      }
    }
    for (int t = first; t < last; ++t) {
      for (int i = first; i <= t; ++i) {
        double dp = 0, p = 0;
        for (int y = 0; y < dv; ++y) {
          dp += at(in.go, t, y, dv) * at(in.v, i, y, dv);
        }
        for (int x = 0; x < dk; ++x) {
          const double decay = in.scale * std::exp(g(t, x) - g(i, x));
          p += decay * at(in.q, t, x, dk) * at(in.k, i, x, dk);
          to(r.dq, t, x, dk) += decay * dp * at(in.k, i, x, dk);
          to(r.dk, i, x, dk) += decay * dp * at(in.q, t, x, dk);
        }
        for (int y = 0; y < dv; ++y) {
          to(r.dv, i, y, dv) += p * at(in.go, t, y, dv);
        }
      }
    }
    for (int t = last - 1; t >= first; --t) {
      for (int x = 0; x < dk; ++x) {
        through[static_cast<std::size_t>(gate(x))] +=
            at(in.q, t, x, dk) * at(r.dq, t, x, dk) - at(in.k, t, x, dk) * at(r.dk, t, x, dk);
        if (in.gates != 1) {
          to(r.dg, t, x, dk) = through[static_cast<std::size_t>(x)];
        }
      }
      if (in.gates == 1) {
        r.dg[static_cast<std::size_t>(t)] = through[0];
      }
    }
    for (int x = 0; x < dk; ++x) {
      for (int y = 0; y < dv; ++y) {
        double& e = to(ds, x, y, dv);
        e *= std::exp(g(last - 1, x));
        for (int t = first; t < last; ++t) {
          e += in.scale * std::exp(g(t, x)) * at(in.q, t, x, dk) * at(in.go, t, y, dv);
        }
      }
    }
  }
  r.ds0 = ds;
  return r;
}

}  // namespace ls::kernels
