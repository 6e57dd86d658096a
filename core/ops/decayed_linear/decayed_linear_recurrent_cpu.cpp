// Token by token: S_t = exp(g_t) S_{t-1} + k_t v_t^T, o_t = scale q_t S_t; for decoding, and for
// anyone who wants no chunks. A task is one sequence and state head; q, k, gq, gk [Dk] and v, y, gv
// [Dv] hold one token. Forward: one pass over the state a token, in tiles of columns. Backward:
// states are kept for one stretch of 64 tokens at a time (`inside` [65,Dk,Dv]) and made again from
// the state at its start (`starts` [T/64+1,Dk,Dv]); ds [Dk,Dv] is the gradient of the state.
#include "core/ops/common/state_columns.h"
#include "core/ops/decayed_linear/decayed_linear_kernels.h"

namespace ls::ops::decayed_linear {
namespace {

constexpr Index kStretch = 64;

/// to = decay * from + k v^T, y = to^T q. `from` null is zero and may be `to`.
template <class A>
void step(Index dk, Index dv, A decay, const A* from, const A* q, const A* k, const A* v, A* to,
          A* y) {
  common::for_columns<A>(dv, [&]<int NV>(Index c, Index cols) {
    common::Columns<A, NV> x(cols), sum(cols);
    x.read(v + c);
    sum.clear();
    if (from) {
      for (Index i = 0; i < dk; ++i) {
        sum.update(decay, from + i * dv + c, k[i], x, q[i], to + i * dv + c);
      }
    } else {
      for (Index i = 0; i < dk; ++i) {
        sum.begin(k[i], x, q[i], to + i * dv + c);
      }
    }
    sum.write(y + c);
  });
}

/// y = s^T q.
template <class A>
void read(Index dk, Index dv, const A* s, const A* q, A* y) {
  common::for_columns<A>(dv, [&]<int NV>(Index c, Index cols) {
    common::Columns<A, NV> sum(cols);
    sum.clear();
    for (Index i = 0; i < dk; ++i) {
      sum.add(q[i], s + i * dv + c);
    }
    sum.write(y + c);
  });
}

}  // namespace

template <class T>
void Recurrent<T>::forward(const Call<T>& call, DecayedLinear::Out<Tensor>& out) {
  using A = acc_t<T>;
  const common::Result<T> o(out.o);
  A* const states = out.sT.data<A>();
  const Index dk = call.dk, dv = call.dv, group = call.group;
  common::for_tasks(call.seqs, call.heads, 2 * (group + 1) * call.size,
                    [&](Index first, Index last) {
                      common::Workspace<A> ws;
                      A *q, *k, *v, *y;
                      ws.add(dk, q, k);
                      ws.add(dv, v, y);
                      ws.allocate();
                      for (Index task = first; task < last; ++task) {
                        const Index n = task / call.heads, h = task % call.heads;
                        const common::Sequence& seq = call.seqs[n];
                        const Index b = seq.row;
                        A* s = states + task * call.size;
                        for (Index i = 0; i < seq.length; ++i) {
                          const Index t = seq.begin + i;
                          call.k.load(b, t, h, 1, dk, k);
                          call.v.load(b, t, h, 1, dv, v);
                          for (Index j = 0; j < group; ++j) {
                            call.q.load(b, t, h * group + j, 1, dk, q);
                            for (Index x = 0; x < dk; ++x) {
                              q[x] *= call.scale;
                            }
                            if (j == 0) {
                              step(dk, dv, simd::exp(call.log_decay(b, t, h)),
                                   i > 0 ? s : call.s0.at(task), q, k, v, s, y);
                            } else {
                              read(dk, dv, s, q, y);
                            }
                            o.store(b, t, h * group + j, 1, dv, y);
                          }
                        }
                        if (seq.length == 0) {
                          call.s0.copy(task, 1, s);
                        }
                      }
                    });
}

template <class T>
void Recurrent<T>::backward(const Call<T>& call, const DecayedLinear::Out<Tensor>& dout,
                            DecayedLinear::In<Tensor>& din) {
  using A = acc_t<T>;
  const common::Operand<T> go(dout.o);
  const Gradients<T> grad(din);
  const common::States<A> dsT(dout.sT, call.size);
  const Index dk = call.dk, dv = call.dv, size = call.size, group = call.group;
  const Index stretch = std::min(std::max<Index>(1, call.longest), kStretch);
  const Index stretches = common::pieces(call.longest, stretch);
  common::for_tasks(call.seqs, call.heads, 6 * (group + 1) * size, [&](Index first, Index last) {
    common::Workspace<A> ws;
    A *starts, *inside, *ds, *q, *k, *v, *y, *gq, *gk, *gv;
    ws.add((stretches + 1) * size, starts);
    ws.add((stretch + 1) * size, inside);
    ws.add(size, ds);
    ws.add(dk, q, k, gq, gk);
    ws.add(dv, v, y, gv);
    ws.allocate();
    for (Index task = first; task < last; ++task) {
      const Index n = task / call.heads, h = task % call.heads;
      const common::Sequence& seq = call.seqs[n];
      const Index b = seq.row, pieces = common::pieces(seq.length, stretch);
      std::fill(q, q + dk, A(0));
      const auto run = [&](Index t, const A* from, A* to) {
        call.k.load(b, t, h, 1, dk, k);
        call.v.load(b, t, h, 1, dv, v);
        step(dk, dv, simd::exp(call.log_decay(b, t, h)), from, q, k, v, to, y);
      };
      call.s0.copy(task, 1, starts);
      dsT.copy(task, 1, ds);
      for (Index z = 0; z + 1 < pieces; ++z) {
        for (Index i = 0; i < stretch; ++i) {
          A* const next = starts + (z + 1) * size;
          run(seq.begin + z * stretch + i, i > 0 ? next : next - size, next);
        }
      }
      for (Index z = pieces - 1; z >= 0; --z) {
        const Index begin = seq.begin + z * stretch,
                    count = std::min(stretch, seq.begin + seq.length - begin);
        std::copy(starts + z * size, starts + (z + 1) * size, inside);
        std::fill(q, q + dk, A(0));
        for (Index i = 0; i < count; ++i) {
          run(begin + i, inside + i * size, inside + (i + 1) * size);
        }
        for (Index i = count - 1; i >= 0; --i) {
          const Index t = begin + i;
          const A decay = simd::exp(call.log_decay(b, t, h));
          const A *before = inside + i * size, *now = before + size;
          for (Index j = 0; j < group; ++j) {
            if (go.defined()) {
              call.q.load(b, t, h * group + j, 1, dk, q);
              go.load(b, t, h * group + j, 1, dv, y);
              for (Index x = 0; x < dk; ++x) {
                gq[x] = call.scale * common::dot(dv, now + x * dv, y);
                const A f = call.scale * q[x];
                A* __restrict row = ds + x * dv;
                for (Index c = 0; c < dv; ++c) {
                  row[c] += f * y[c];
                }
              }
            } else {
              std::fill(gq, gq + dk, A(0));
            }
            grad.q.store(b, t, h * group + j, 1, dk, gq);
          }
          call.k.load(b, t, h, 1, dk, k);
          call.v.load(b, t, h, 1, dv, v);
          std::fill(gv, gv + dv, A(0));
          A through = 0;
          for (Index x = 0; x < dk; ++x) {
            A* __restrict row = ds + x * dv;
            const A kx = k[x];
            gk[x] = common::dot(dv, row, v);
            through += common::dot(dv, row, before + x * dv);
            for (Index c = 0; c < dv; ++c) {
              gv[c] += kx * row[c];
              row[c] *= decay;
            }
          }
          grad.k.store(b, t, h, 1, dk, gk);
          grad.v.store(b, t, h, 1, dv, gv);
          if (grad.g.defined()) {
            *grad.g.at(b, t, h) = decay * through;
          }
        }
      }
      if (grad.s0) {
        std::copy(ds, ds + size, grad.s0 + task * size);
      }
    }
  });
}

template struct Recurrent<double>;
template struct Recurrent<float>;
template struct Recurrent<bf16>;

}  // namespace ls::ops::decayed_linear
