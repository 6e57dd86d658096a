#include "kda_reference.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "reference_matrix.h"

namespace ls::kernels {
namespace {

std::size_t size(int n) {
  return static_cast<std::size_t>(n);
}

KdaResult empty_result(const KdaChain& in) {
  KdaResult r;
  r.o = zeros(in.t, in.dv);
  r.dq = r.dk = r.dg = zeros(in.t, in.dk);
  r.dv = zeros(in.t, in.dv);
  r.dbeta = zeros(in.t, 1);
  return r;
}

/// Inputs of one chunk and what the gates make of them; blocks of a quarter of the chunk.
struct Loaded {
  int c, dk;
  Matrix q, k, v, go, beta;
  Matrix sum;                 // [C,Dk] G
  Matrix middle;              // [4,Dk] M: G in the middle of each block
  Matrix query, read, write;  // [C,Dk] q', k 2^(G - M), k'
  Matrix all;                 // [Dk] G_C
  int block(int t) const { return t / (c / 4); }
  /// exp(M of block a - M of block b) of a channel; block -1: the chunk's start, 4: its end.
  double between(int a, int b, int d) const {
    const auto at_block = [&](int i) {
      return i < 0 ? 0 : i > 3 ? all[size(d)] : middle[at(i, dk, d)];
    };
    return std::exp(at_block(a) - at_block(b));
  }
};

Loaded load(const KdaChain& in, int first, int c) {
  const int dk = in.dk, block = c / 4;
  Loaded l{c,
           dk,
           rows_of(in.q, first, dk, c, in.t),
           rows_of(in.k, first, dk, c, in.t),
           rows_of(in.v, first, in.dv, c, in.t),
           rows_of(in.go, first, in.dv, c, in.t),
           rows_of(in.beta, first, 1, c, in.t),
           rows_of(in.g, first, dk, c, in.t),
           zeros(4, dk),
           zeros(c, dk),
           zeros(c, dk),
           zeros(c, dk),
           zeros(1, dk)};
  for (double& b : l.beta) {
    b = std::abs(b) < 1e-12 ? 1e-12 : b;
  }
  for (int d = 0; d < dk; ++d) {
    double sum = 0;
    for (int t = 0; t < c; ++t) {
      sum += std::max(l.sum[at(t, dk, d)], kKdaLeastGate);
      l.sum[at(t, dk, d)] = sum;
      if (t % block == (block - 1) / 2) {
        l.middle[at(l.block(t), dk, d)] = sum;
      }
    }
    l.all[size(d)] = sum;
    for (int t = 0; t < c; ++t) {
      const std::size_t x = at(t, dk, d);
      const double e = l.sum[x] - l.middle[at(l.block(t), dk, d)];
      l.query[x] = in.scale * l.q[x] * std::exp(e);
      l.read[x] = l.k[x] * std::exp(e);
      l.write[x] = l.k[x] * std::exp(-e);
    }
  }
  return l;
}

/// sums[i,d] += sum_j p[i,j] exp(M_i - M_j) from[j,d], or with p transposed and exp(M_j - M_i).
void add_pairs(Matrix& sums, const Loaded& l, const Matrix& p, bool transposed,
               const Matrix& from) {
  for (int i = 0; i < l.c; ++i) {
    for (int j = 0; j < l.c; ++j) {
      const double w = transposed ? p[at(j, l.c, i)] : p[at(i, l.c, j)];
      if (w != 0) {
        for (int d = 0; d < l.dk; ++d) {
          sums[at(i, l.dk, d)] += w * from[at(j, l.dk, d)] *
                                  (transposed ? l.between(l.block(j), l.block(i), d)
                                              : l.between(l.block(i), l.block(j), d));
        }
      }
    }
  }
}

}  // namespace

KdaResult kda_by_token(const KdaChain& in) {
  const int dk = in.dk, dv = in.dv;
  KdaResult r = empty_result(in);
  std::vector<Matrix> states = {in.s0};
  std::vector<Matrix> errors;  // v - the decayed state's answer
  for (int t = 0; t < in.t; ++t) {
    Matrix s = states.back(), x(size(dv));
    for (int i = 0; i < dk; ++i) {
      for (int c = 0; c < dv; ++c) {
        s[at(i, dv, c)] *= std::exp(in.g[at(t, dk, i)]);
      }
    }
    for (int c = 0; c < dv; ++c) {
      x[size(c)] = in.v[at(t, dv, c)];
      for (int i = 0; i < dk; ++i) {
        x[size(c)] -= in.k[at(t, dk, i)] * s[at(i, dv, c)];
      }
    }
    for (int i = 0; i < dk; ++i) {
      for (int c = 0; c < dv; ++c) {
        s[at(i, dv, c)] += in.k[at(t, dk, i)] * in.beta[size(t)] * x[size(c)];
        r.o[at(t, dv, c)] += in.scale * in.q[at(t, dk, i)] * s[at(i, dv, c)];
      }
    }
    errors.push_back(std::move(x));
    states.push_back(std::move(s));
  }
  r.s = states.back();
  Matrix ds = in.gs;
  for (int t = in.t - 1; t >= 0; --t) {
    const Matrix &before = states[size(t)], &now = states[size(t) + 1], &x = errors[size(t)];
    const double beta = in.beta[size(t)];
    Matrix gw(size(dv));
    for (int i = 0; i < dk; ++i) {
      for (int c = 0; c < dv; ++c) {
        r.dq[at(t, dk, i)] += in.scale * now[at(i, dv, c)] * in.go[at(t, dv, c)];
        ds[at(i, dv, c)] += in.scale * in.q[at(t, dk, i)] * in.go[at(t, dv, c)];
        gw[size(c)] += in.k[at(t, dk, i)] * ds[at(i, dv, c)];
      }
    }
    for (int c = 0; c < dv; ++c) {
      r.dv[at(t, dv, c)] = beta * gw[size(c)];
      r.dbeta[size(t)] += gw[size(c)] * x[size(c)];
    }
    for (int i = 0; i < dk; ++i) {
      const double decay = std::exp(in.g[at(t, dk, i)]);
      for (int c = 0; c < dv; ++c) {
        double& d = ds[at(i, dv, c)];
        r.dk[at(t, dk, i)] +=
            d * beta * x[size(c)] - beta * gw[size(c)] * decay * before[at(i, dv, c)];
        d = (d - in.k[at(t, dk, i)] * beta * gw[size(c)]) * decay;
        r.dg[at(t, dk, i)] += d * before[at(i, dv, c)];
      }
    }
  }
  r.ds0 = ds;
  return r;
}

KdaResult kda_by_chunk(const KdaChain& in, int c, std::vector<KdaChunk>* kept, bool bf16_operands) {
  const auto operand = [&](Matrix m) {
    for (double& e : m) {
      e = bf16_operands ? to_bf16(e) : e;
    }
    return m;
  };
  const int dk = in.dk, dv = in.dv, chunks = (in.t + c - 1) / c;
  KdaResult r = empty_result(in);
  const auto load_chunk = [&](int n) {
    Loaded l = load(in, n * c, c);
    l.query = operand(l.query);
    l.read = operand(l.read);
    l.write = operand(l.write);
    return l;
  };
  std::vector<KdaChunk> all(size(chunks));
  Matrix s = in.s0;
  for (int n = 0; n < chunks; ++n) {
    KdaChunk& z = all[size(n)];
    const Loaded l = load_chunk(n);
    z.n = zeros(c, c);
    z.p = zeros(c, c);
    z.reader = z.query = z.writer = zeros(c, dk);
    for (int i = 0; i < c; ++i) {
      const int b = l.block(i);
      Matrix kk = zeros(1, c), qk = zeros(1, c);
      for (int d = 0; d < dk; ++d) {
        const std::size_t x = at(i, dk, d);
        const double begin = l.between(b, -1, d);
        z.reader[x] = begin * l.read[x];
        z.query[x] = begin * l.query[x];
        z.writer[x] = l.beta[size(i)] * l.between(4, b, d) * l.write[x];
        for (int j = 0; j <= i; ++j) {
          const double to = l.between(b, l.block(j), d) * l.write[at(j, dk, d)];
          kk[size(j)] += l.read[x] * to * l.beta[size(j)];
          qk[size(j)] += l.query[x] * to * l.beta[size(j)];
        }
      }
      // (I + L) (I - N) = I, L = strictly lower kk
      for (int j = 0; j <= i; ++j) {
        z.p[at(i, c, j)] = qk[size(j)];
        double sum = j < i ? kk[size(j)] : 0;
        for (int m = j + 1; m < i; ++m) {
          sum -= kk[size(m)] * z.n[at(m, c, j)];
        }
        z.n[at(i, c, j)] = sum;
      }
    }
    z.n = operand(z.n);
    z.p = operand(z.p);
    z.reader = operand(z.reader);
    z.query = operand(z.query);
    z.writer = operand(z.writer);
    z.s = s;
    const Matrix now = operand(s);
    Matrix w = l.v, o = zeros(c, dv);
    multiply(w, z.reader, false, now, false, c, dk, dv, -1);
    multiply(o, z.query, false, now, false, c, dk, dv);
    z.x = w;
    multiply(z.x, z.n, false, operand(w), false, c, c, dv, -1);
    const Matrix x = operand(z.x);
    multiply(o, z.p, false, x, false, c, c, dv);
    put_rows(r.o, o, n * c, dv, in.t);
    for (int d = 0; d < dk; ++d) {
      for (int j = 0; j < dv; ++j) {
        s[at(d, dv, j)] *= std::exp(l.all[size(d)]);
      }
    }
    multiply(s, z.writer, true, x, false, dk, c, dv);
  }
  r.s = s;
  Matrix ds = in.gs;
  for (int n = chunks - 1; n >= 0; --n) {
    KdaChunk& z = all[size(n)];
    const Loaded l = load_chunk(n);
    z.ds = ds;
    const Matrix later = operand(ds), x = operand(z.x), before = operand(z.s);
    Matrix y = zeros(c, dv);
    multiply(y, z.writer, false, later, false, c, dk, dv);
    multiply(y, z.p, true, l.go, false, c, c, dv);
    Matrix e = y;
    multiply(e, z.n, true, operand(y), false, c, c, dv, -1);
    put_rows(r.dv, e, n * c, dv, in.t);
    e = operand(e);
    // Scores, then what readers and writers of a pair get; both sides take the same factors.
    Matrix dp = zeros(c, c), dm = zeros(c, c);
    multiply(dp, l.go, false, x, true, c, dv, c);
    multiply(dm, e, false, x, true, c, dv, c, -1);
    for (int i = 0; i < c; ++i) {
      for (int j = 0; j < c; ++j) {
        dp[at(i, c, j)] *= i >= j ? l.beta[size(j)] : 0;
        dm[at(i, c, j)] *= i > j ? l.beta[size(j)] : 0;
      }
    }
    dp = operand(dp);
    dm = operand(dm);
    Matrix query = zeros(c, dk), read = zeros(c, dk), write = zeros(c, dk), last = zeros(1, dk);
    multiply(query, l.go, false, before, true, c, dv, dk);
    multiply(read, e, false, before, true, c, dv, dk, -1);
    multiply(write, x, false, later, true, c, dv, dk);
    for (int d = 0; d < dk; ++d) {
      last[size(d)] = std::exp(l.all[size(d)]) * row_dot(before, later, d, dv);
      for (int i = 0; i < c; ++i) {
        const std::size_t a = at(i, dk, d);
        query[a] *= l.between(l.block(i), -1, d);
        read[a] *= l.between(l.block(i), -1, d);
        write[a] *= l.beta[size(i)] * l.between(4, l.block(i), d);
        last[size(d)] += l.write[a] * write[a];
      }
    }
    add_pairs(query, l, dp, false, l.write);
    add_pairs(read, l, dm, false, l.write);
    add_pairs(write, l, dp, true, l.query);
    add_pairs(write, l, dm, true, l.read);
    Matrix dg = zeros(c, dk), dq = zeros(c, dk), dkey = zeros(c, dk);
    const Matrix gates = rows_of(in.g, n * c, dk, c, in.t);
    for (int d = 0; d < dk; ++d) {
      double sum = last[size(d)];
      for (int t = c - 1; t >= 0; --t) {
        const std::size_t a = at(t, dk, d);
        const double anchored = std::exp(l.sum[a] - l.middle[at(l.block(t), dk, d)]);
        dq[a] = in.scale * anchored * query[a];
        dkey[a] = anchored * read[a] + write[a] / anchored;
        sum += l.query[a] * query[a] + l.read[a] * read[a] - l.write[a] * write[a];
        dg[a] = gates[a] < kKdaLeastGate ? 0 : sum;
      }
    }
    put_rows(r.dq, dq, n * c, dk, in.t);
    put_rows(r.dk, dkey, n * c, dk, in.t);
    put_rows(r.dg, dg, n * c, dk, in.t);
    for (int t = 0; t < std::min(c, in.t - n * c); ++t) {
      r.dbeta[size(n * c + t)] = row_dot(e, x, t, dv) / l.beta[size(t)];
    }
    for (int d = 0; d < dk; ++d) {
      for (int j = 0; j < dv; ++j) {
        ds[at(d, dv, j)] *= std::exp(l.all[size(d)]);
      }
    }
    multiply(ds, z.query, true, l.go, false, dk, c, dv);
    multiply(ds, z.reader, true, e, false, dk, c, dv, -1);
  }
  r.ds0 = ds;
  if (kept) {
    *kept = std::move(all);
  }
  return r;
}

}  // namespace ls::kernels
