#include "gated_delta_reference.h"

#include <cmath>
#include <cstddef>

#include "reference_matrix.h"

namespace ls::kernels {

DeltaResult delta_by_token(const DeltaChain& in) {
  const int t_all = in.t, dk = in.dk, dv = in.dv;
  DeltaResult r;
  r.o = zeros(t_all, dv);
  std::vector<Matrix> states = {in.s0};
  std::vector<Matrix> errors;  // v - decayed state's answer
  for (int t = 0; t < t_all; ++t) {
    Matrix s = states.back();
    Matrix x(static_cast<std::size_t>(dv));
    for (double& e : s) {
      e *= std::exp(in.g[static_cast<std::size_t>(t)]);
    }
    for (int c = 0; c < dv; ++c) {
      double read = 0;
      for (int i = 0; i < dk; ++i) {
        read += in.k[at(t, dk, i)] * s[at(i, dv, c)];
      }
      x[static_cast<std::size_t>(c)] = in.v[at(t, dv, c)] - read;
    }
    for (int i = 0; i < dk; ++i) {
      for (int c = 0; c < dv; ++c) {
        s[at(i, dv, c)] += in.k[at(t, dk, i)] * in.beta[static_cast<std::size_t>(t)] *
                           x[static_cast<std::size_t>(c)];
        r.o[at(t, dv, c)] += in.scale * in.q[at(t, dk, i)] * s[at(i, dv, c)];
      }
    }
    errors.push_back(std::move(x));
    states.push_back(std::move(s));
  }
  r.s = states.back();
  r.dq = zeros(t_all, dk);
  r.dk = zeros(t_all, dk);
  r.dv = zeros(t_all, dv);
  r.dg.assign(static_cast<std::size_t>(t_all), 0);
  r.dbeta.assign(static_cast<std::size_t>(t_all), 0);
  Matrix ds = in.gs;
  for (int t = t_all - 1; t >= 0; --t) {
    const auto tt = static_cast<std::size_t>(t);
    const Matrix &before = states[tt], &now = states[tt + 1], &x = errors[tt];
    const double decay = std::exp(in.g[tt]), beta = in.beta[tt];
    Matrix gw(static_cast<std::size_t>(dv));
    for (int i = 0; i < dk; ++i) {
      for (int c = 0; c < dv; ++c) {
        r.dq[at(t, dk, i)] += in.scale * now[at(i, dv, c)] * in.go[at(t, dv, c)];
        ds[at(i, dv, c)] += in.scale * in.q[at(t, dk, i)] * in.go[at(t, dv, c)];
        gw[static_cast<std::size_t>(c)] += in.k[at(t, dk, i)] * ds[at(i, dv, c)];
      }
    }
    for (int c = 0; c < dv; ++c) {
      const auto cc = static_cast<std::size_t>(c);
      r.dv[at(t, dv, c)] = beta * gw[cc];
      r.dbeta[tt] += gw[cc] * x[cc];
    }
    for (int i = 0; i < dk; ++i) {
      for (int c = 0; c < dv; ++c) {
        const auto cc = static_cast<std::size_t>(c);
        double& d = ds[at(i, dv, c)];
        r.dk[at(t, dk, i)] += d * beta * x[cc] - beta * gw[cc] * decay * before[at(i, dv, c)];
        d = (d - in.k[at(t, dk, i)] * beta * gw[cc]) * decay;
        r.dg[tt] += d * before[at(i, dv, c)];
      }
    }
  }
  r.ds0 = ds;
  return r;
}

DeltaResult delta_by_chunk(const DeltaChain& in, int c, std::vector<DeltaChunk>* kept,
                           bool bf16_operands) {
  const auto operand = [&](Matrix m) {
    for (double& e : m) {
      e = bf16_operands ? to_bf16(e) : e;
    }
    return m;
  };
  const int dk = in.dk, dv = in.dv, chunks = (in.t + c - 1) / c;
  DeltaResult r;
  r.o = zeros(in.t, dv);
  r.dq = zeros(in.t, dk);
  r.dk = zeros(in.t, dk);
  r.dv = zeros(in.t, dv);
  r.dg.assign(static_cast<std::size_t>(in.t), 0);
  r.dbeta.assign(static_cast<std::size_t>(in.t), 0);
  struct Loaded {
    Matrix q, k, v, go, g, beta;
    Matrix d;  // [C,C] exp(G_i - G_j), i >= j
  };
  const auto load = [&](int n) {
    const int first = n * c;
    Loaded l{rows_of(in.q, first, dk, c, in.t),
             rows_of(in.k, first, dk, c, in.t),
             rows_of(in.v, first, dv, c, in.t),
             rows_of(in.go, first, dv, c, in.t),
             rows_of(in.g, first, 1, c, in.t),
             rows_of(in.beta, first, 1, c, in.t),
             zeros(c, c)};
    for (int i = 1; i < c; ++i) {
      l.g[static_cast<std::size_t>(i)] += l.g[static_cast<std::size_t>(i) - 1];
    }
    for (int i = 0; i < c; ++i) {
      for (int j = 0; j <= i; ++j) {
        l.d[at(i, c, j)] =
            std::exp(l.g[static_cast<std::size_t>(i)] - l.g[static_cast<std::size_t>(j)]);
      }
    }
    return l;
  };
  std::vector<DeltaChunk> all(static_cast<std::size_t>(chunks));
  Matrix s = in.s0;
  for (int n = 0; n < chunks; ++n) {
    DeltaChunk& z = all[static_cast<std::size_t>(n)];
    const Loaded l = load(n);
    // (I + L0 diag(beta)) T = L0, L0 = strictly lower K K^T; N = T * D.
    Matrix kk = zeros(c, c);
    multiply(kk, l.k, false, l.k, true, c, dk, c);
    z.n = zeros(c, c);
    for (int i = 0; i < c; ++i) {
      for (int j = 0; j < i; ++j) {
        double sum = kk[at(i, c, j)];
        for (int m = j + 1; m < i; ++m) {
          sum -= kk[at(i, c, m)] * l.beta[static_cast<std::size_t>(m)] * z.n[at(m, c, j)];
        }
        z.n[at(i, c, j)] = sum;
      }
    }
    z.p = zeros(c, c);
    multiply(z.p, l.q, false, l.k, true, c, dk, c, in.scale);
    for (std::size_t i = 0; i < z.n.size(); ++i) {
      z.n[i] *= l.d[i];
      z.p[i] *= l.d[i];
    }
    z.s = s;
    Matrix y = zeros(c, dv), w = l.v, o = zeros(c, dv);
    multiply(y, l.k, false, operand(s), false, c, dk, dv);
    multiply(o, l.q, false, operand(s), false, c, dk, dv, in.scale);
    Matrix bw = w;
    for (int i = 0; i < c; ++i) {
      const double eg = std::exp(l.g[static_cast<std::size_t>(i)]);
      for (int j = 0; j < dv; ++j) {
        o[at(i, dv, j)] *= eg;
        w[at(i, dv, j)] -= eg * y[at(i, dv, j)];
        bw[at(i, dv, j)] = l.beta[static_cast<std::size_t>(i)] * w[at(i, dv, j)];
      }
    }
    z.x = w;
    multiply(z.x, operand(z.n), false, operand(bw), false, c, c, dv, -1);
    Matrix write = z.x, late = z.x;
    for (int i = 0; i < c; ++i) {
      for (int j = 0; j < dv; ++j) {
        write[at(i, dv, j)] *= l.beta[static_cast<std::size_t>(i)];
        late[at(i, dv, j)] = write[at(i, dv, j)] * l.d[at(c - 1, c, i)];
      }
    }
    multiply(o, operand(z.p), false, operand(write), false, c, c, dv);
    put_rows(r.o, o, n * c, dv, in.t);
    for (double& e : s) {
      e *= std::exp(l.g.back());
    }
    multiply(s, l.k, true, operand(late), false, dk, c, dv);
  }
  r.s = s;
  Matrix ds = in.gs;
  for (int n = chunks - 1; n >= 0; --n) {
    DeltaChunk& z = all[static_cast<std::size_t>(n)];
    const Loaded l = load(n);
    const auto beta = [&](int i) { return l.beta[static_cast<std::size_t>(i)]; };
    const auto eg = [&](int i) { return std::exp(l.g[static_cast<std::size_t>(i)]); };
    z.ds = ds;
    // dW = exp(G_C - G) K dS' + P^T dO;  E = dW - N^T (beta dW);  dV = beta E
    Matrix dw = zeros(c, dv);
    multiply(dw, l.k, false, operand(ds), false, c, dk, dv);
    for (int i = 0; i < c; ++i) {
      for (int j = 0; j < dv; ++j) {
        dw[at(i, dv, j)] *= l.d[at(c - 1, c, i)];
      }
    }
    multiply(dw, operand(z.p), true, l.go, false, c, c, dv);
    z.e = dw;
    for (int i = 0; i < c; ++i) {
      for (int j = 0; j < dv; ++j) {
        dw[at(i, dv, j)] *= beta(i);
      }
    }
    multiply(z.e, operand(z.n), true, operand(dw), false, c, c, dv, -1);
    // Scores: gradients of the masked products.
    Matrix dp = zeros(c, c), dm = zeros(c, c);
    multiply(dp, l.go, false, operand(z.x), true, c, dv, c, in.scale);
    multiply(dm, operand(z.e), false, operand(z.x), true, c, dv, c, -1);
    for (int i = 0; i < c; ++i) {
      for (int j = 0; j < c; ++j) {
        dp[at(i, c, j)] *= l.d[at(i, c, j)] * beta(j);
        dm[at(i, c, j)] *= i > j ? l.d[at(i, c, j)] * beta(j) * beta(i) : 0;
      }
    }
    Matrix dq = zeros(c, dk), reader = zeros(c, dk), writer = zeros(c, dk), late = zeros(c, dk);
    multiply(dq, l.go, false, operand(z.s), true, c, dv, dk, in.scale);
    multiply(reader, operand(z.e), false, operand(z.s), true, c, dv, dk, -1);
    multiply(late, operand(z.x), false, operand(ds), true, c, dv, dk);
    double last = 0;  // <S', dS'>
    for (std::size_t i = 0; i < ds.size(); ++i) {
      last += z.s[i] * ds[i];
    }
    last *= std::exp(l.g.back());
    Matrix dv_rows = z.e;
    for (int i = 0; i < c; ++i) {
      for (int j = 0; j < dk; ++j) {
        dq[at(i, dk, j)] *= eg(i);
        reader[at(i, dk, j)] *= eg(i) * beta(i);
        late[at(i, dk, j)] *= beta(i) * l.d[at(c - 1, c, i)];
      }
      for (int j = 0; j < dv; ++j) {
        dv_rows[at(i, dv, j)] *= beta(i);
      }
      last += row_dot(l.k, late, i, dk);
    }
    multiply(dq, operand(dp), false, l.k, false, c, c, dk);
    multiply(reader, operand(dm), false, l.k, false, c, c, dk);
    writer = late;
    multiply(writer, operand(dp), true, l.q, false, c, c, dk);
    multiply(writer, operand(dm), true, l.k, false, c, c, dk);
    double running = last;
    Matrix dk_rows = reader;
    for (std::size_t i = 0; i < dk_rows.size(); ++i) {
      dk_rows[i] += writer[i];
    }
    for (int i = c - 1; i >= 0; --i) {
      running +=
          row_dot(l.q, dq, i, dk) + row_dot(l.k, reader, i, dk) - row_dot(l.k, writer, i, dk);
      if (n * c + i < in.t) {
        r.dg[static_cast<std::size_t>(n * c + i)] = running;
        r.dbeta[static_cast<std::size_t>(n * c + i)] = row_dot(z.e, z.x, i, dv);
      }
    }
    put_rows(r.dq, dq, n * c, dk, in.t);
    put_rows(r.dk, dk_rows, n * c, dk, in.t);
    put_rows(r.dv, dv_rows, n * c, dv, in.t);
    // dS = exp(G_C) dS' + (scale exp(G) Q)^T dO - (exp(G) beta K)^T E
    for (double& e : ds) {
      e *= std::exp(l.g.back());
    }
    Matrix go = l.go;
    for (int i = 0; i < c; ++i) {
      for (int j = 0; j < dv; ++j) {
        go[at(i, dv, j)] *= in.scale * eg(i);
        dv_rows[at(i, dv, j)] *= eg(i);
      }
    }
    multiply(ds, l.q, true, operand(go), false, dk, c, dv);
    multiply(ds, l.k, true, operand(dv_rows), false, dk, c, dv, -1);
  }
  r.ds0 = ds;
  if (kept) {
    *kept = std::move(all);
  }
  return r;
}

}  // namespace ls::kernels
