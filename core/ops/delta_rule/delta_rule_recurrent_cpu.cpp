// Token by token, for decoding, and for anyone who wants no chunks. With D = exp(g_t) S_{t-1}:
// x = v - D^T k, w = beta x, S_t = D + k w^T, o_t = scale q S_t. A task is one sequence and key
// head with its R = group value heads. Forward: two passes over the state a token, in tiles of
// columns: what the key reads, then the update and what the query reads. Backward: states are kept
// for one stretch of 64 tokens at a time (`inside` [R,65,Dk,Dv]) and made again from the state at
// its start (`starts` [R,T/64+1,Dk,Dv]); ds_all [R,Dk,Dv] is the gradient of the states; gq, gk
// [Dk] are sums over the value heads of a token; answer, gw [Dv] are D^T k and dw.
#include "core/ops/common/state_columns.h"
#include "core/ops/delta_rule/delta_rule_kernels.h"

namespace ls::ops::delta_rule {
namespace {

constexpr Index kStretch = 64;

/// One token and value head, converted.
template <class A>
struct Token {
  A *q, *k, *v, *y, *x, *w;  // of Dk, Dk, Dv, ...
  void reserve(common::Workspace<A>& ws, Index dk, Index dv) {
    ws.add(dk, q, k);
    ws.add(dv, v, y, x, w);
  }
};

template <class T, class A>
A decay_of(const Call<T>& call, Index b, Index t, Index hv) {
  return call.decays ? simd::exp(*call.g.at(b, t, hv)) : A(1);
}

/// to = decay * from + k w^T, x = v - decay * from^T k, w = beta * x, y = to^T q. `from` null is
/// zero and may be `to`.
template <class T, class A>
void step(const Call<T>& call, Index b, Index t, Index hv, A decay, const A* from, A* to,
          const Token<A>& token) {
  const Index dk = call.dk, dv = call.dv;
  call.v.load(b, t, hv, 1, dv, token.v);
  common::for_columns<A>(dv, [&]<int NV>(Index c, Index cols) {
    common::Columns<A, NV> sum(cols);
    sum.clear();
    if (from) {
      for (Index i = 0; i < dk; ++i) {
        sum.add(token.k[i], from + i * dv + c);
      }
    }
    sum.write(token.x + c);
  });
  for (Index c = 0; c < dv; ++c) {
    token.x[c] = token.v[c] - decay * token.x[c];
  }
  call.times_beta(b, t, hv, token.x, token.w);
  common::for_columns<A>(dv, [&]<int NV>(Index c, Index cols) {
    common::Columns<A, NV> w(cols), y(cols);
    w.read(token.w + c);
    y.clear();
    if (from) {
      for (Index i = 0; i < dk; ++i) {
        y.update(decay, from + i * dv + c, token.k[i], w, token.q[i], to + i * dv + c);
      }
    } else {
      for (Index i = 0; i < dk; ++i) {
        y.begin(token.k[i], w, token.q[i], to + i * dv + c);
      }
    }
    y.write(token.y + c);
  });
}

}  // namespace

template <class T>
void Recurrent<T>::forward(const Call<T>& call, DeltaRule::Out<Tensor>& out) {
  using A = acc_t<T>;
  const common::Result<T> o(out.o);
  A* const states = out.sT.data<A>();
  const Index dk = call.dk, dv = call.dv;
  common::for_tasks(call.seqs, call.heads, call.group * 8 * call.size,
                    [&](Index first, Index last) {
                      common::Workspace<A> ws;
                      Token<A> token;
                      A* factor;
                      token.reserve(ws, dk, dv);
                      ws.add(1, factor);
                      ws.allocate();
                      for (Index task = first; task < last; ++task) {
                        const Index n = task / call.heads, h = task % call.heads;
                        const common::Sequence& seq = call.seqs[n];
                        const Index b = seq.row, first_head = task * call.group;
                        for (Index i = 0; i < seq.length; ++i) {
                          const Index t = seq.begin + i;
                          call.load_keys(call.q, b, t, h, 1, token.q, factor);
                          call.load_keys(call.k, b, t, h, 1, token.k, factor);
                          for (Index x = 0; x < dk; ++x) {
                            token.q[x] *= call.scale;
                          }
                          for (Index r = 0; r < call.group; ++r) {
                            const Index hv = h * call.group + r;
                            A* s = states + (first_head + r) * call.size;
                            step(call, b, t, hv, decay_of<T, A>(call, b, t, hv),
                                 i > 0 ? s : call.s0.at(first_head + r), s, token);
                            o.store(b, t, hv, 1, dv, token.y);
                          }
                        }
                        if (seq.length == 0) {
                          call.s0.copy(first_head, call.group, states + first_head * call.size);
                        }
                      }
                    });
}

template <class T>
void Recurrent<T>::backward(const Call<T>& call, const DeltaRule::Out<Tensor>& dout,
                            DeltaRule::In<Tensor>& din) {
  using A = acc_t<T>;
  const common::Operand<T> go(dout.o);
  const Gradients<T> grad(din);
  const common::States<A> dsT(dout.sT, call.size);
  const Index dk = call.dk, dv = call.dv, size = call.size, group = call.group;
  const Index stretch = std::min(std::max<Index>(1, call.longest), kStretch);
  const Index stretches = common::pieces(call.longest, stretch);
  common::for_tasks(call.seqs, call.heads, 3 * group * 8 * size, [&](Index first, Index last) {
    common::Workspace<A> ws;
    Token<A> token;
    A *starts, *inside, *ds_all, *gq, *gk, *answer, *gw, *nq, *nk;
    token.reserve(ws, dk, dv);
    ws.add(group * (stretches + 1) * size, starts);
    ws.add(group * (stretch + 1) * size, inside);
    ws.add(group * size, ds_all);
    ws.add(dk, gq, gk);
    ws.add(dv, answer, gw);
    ws.add(1, nq, nk);
    ws.allocate();
    for (Index task = first; task < last; ++task) {
      const Index n = task / call.heads, h = task % call.heads;
      const common::Sequence& seq = call.seqs[n];
      const Index b = seq.row, first_head = task * group;
      const Index pieces = common::pieces(seq.length, stretch);
      const auto start_of = [&](Index r, Index z) {
        return starts + (r * (stretches + 1) + z) * size;
      };
      const auto before = [&](Index r, Index i) { return inside + (r * (stretch + 1) + i) * size; };
      const auto load = [&](Index t) {
        call.load_keys(call.q, b, t, h, 1, token.q, nq);
        call.load_keys(call.k, b, t, h, 1, token.k, nk);
      };
      const auto run = [&](Index r, Index t, const A* from, A* to) {
        const Index hv = h * group + r;
        step(call, b, t, hv, decay_of<T, A>(call, b, t, hv), from, to, token);
      };
      for (Index r = 0; r < group; ++r) {
        call.s0.copy(first_head + r, 1, start_of(r, 0));
      }
      dsT.copy(first_head, group, ds_all);
      for (Index z = 0; z + 1 < pieces; ++z) {
        for (Index i = 0; i < stretch; ++i) {
          load(seq.begin + z * stretch + i);
          for (Index r = 0; r < group; ++r) {
            run(r, seq.begin + z * stretch + i, i > 0 ? start_of(r, z + 1) : start_of(r, z),
                start_of(r, z + 1));
          }
        }
      }
      for (Index z = pieces - 1; z >= 0; --z) {
        const Index begin = seq.begin + z * stretch,
                    count = std::min(stretch, seq.begin + seq.length - begin);
        for (Index r = 0; r < group; ++r) {
          std::copy(start_of(r, z), start_of(r, z) + size, before(r, 0));
        }
        for (Index i = 0; i + 1 < count; ++i) {
          load(begin + i);
          for (Index r = 0; r < group; ++r) {
            run(r, begin + i, before(r, i), before(r, i + 1));
          }
        }
        for (Index i = count - 1; i >= 0; --i) {
          const Index t = begin + i;
          load(t);
          std::fill(gq, gq + dk, A(0));
          std::fill(gk, gk + dk, A(0));
          for (Index r = 0; r < group; ++r) {
            const Index hv = h * group + r;
            const A decay = decay_of<T, A>(call, b, t, hv);
            const A* s = before(r, i);
            A* ds = ds_all + r * size;
            A* __restrict y = token.y, * __restrict x = token.x, * __restrict w = token.w;
            if (go.defined()) {
              go.load(b, t, hv, 1, dv, y);
              for (Index c = 0; c < dv; ++c) {
                y[c] *= call.scale;
              }
            } else {
              std::fill(y, y + dv, A(0));
            }
            call.v.load(b, t, hv, 1, dv, x);
            std::fill(answer, answer + dv, A(0));
            std::fill(gw, gw + dv, A(0));
            for (Index j = 0; j < dk; ++j) {
              const A* __restrict row = s + j * dv;
              A* __restrict drow = ds + j * dv;
              const A qj = token.q[j], kj = token.k[j];
              for (Index c = 0; c < dv; ++c) {
                drow[c] += qj * y[c];
                answer[c] += kj * row[c];
                gw[c] += kj * drow[c];
              }
            }
            A wy = 0, through = 0;
            for (Index c = 0; c < dv; ++c) {
              answer[c] *= decay;
              x[c] -= answer[c];
            }
            call.times_beta(b, t, hv, x, w);
            call.times_beta(b, t, hv, gw, token.v);  // d x, which is d v
            for (Index c = 0; c < dv; ++c) {
              wy += w[c] * y[c];
              through -= answer[c] * token.v[c];
            }
            for (Index j = 0; j < dk; ++j) {
              const A* __restrict row = s + j * dv;
              A* __restrict drow = ds + j * dv;
              const A* __restrict dx = token.v;
              A read_y = 0, read_dx = 0, written = 0, kept = 0;
#pragma omp simd reduction(+ : read_y, read_dx, written, kept)
              for (Index c = 0; c < dv; ++c) {
                read_y += row[c] * y[c];
                read_dx += row[c] * dx[c];
                written += drow[c] * w[c];
                kept += row[c] * drow[c];
              }
              gq[j] += decay * read_y + token.k[j] * wy;
              gk[j] += written - decay * read_dx;
              through += decay * kept;
              for (Index c = 0; c < dv; ++c) {
                drow[c] = decay * (drow[c] - token.k[j] * dx[c]);
              }
            }
            grad.v.store(b, t, hv, 1, dv, token.v);
            grad.store_beta(b, t, hv, dv, gw, x);
            if (grad.g.defined()) {
              *grad.g.at(b, t, hv) = through;
            }
          }
          if (grad.q.defined()) {
            call.through_norm(1, token.q, nq, gq);
            grad.q.store(b, t, h, 1, dk, gq);
          }
          if (grad.k.defined()) {
            call.through_norm(1, token.k, nk, gk);
            grad.k.store(b, t, h, 1, dk, gk);
          }
        }
      }
      if (grad.s0) {
        std::copy(ds_all, ds_all + group * size, grad.s0 + first_head * size);
      }
    }
  });
}

template struct Recurrent<double>;
template struct Recurrent<float>;
template struct Recurrent<bf16>;

}  // namespace ls::ops::delta_rule
