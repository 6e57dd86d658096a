// Token by token, for decoding, and for anyone who wants no chunks. With D = exp(g_t) S_{t-1}:
// x = v - D^T k, w = beta x, S_t = D + k w^T, o_t = scale q S_t. A task is one sequence and key
// head with its R = group value heads. Forward: two passes over the state a token, in tiles of
// columns: what the key reads, then the update and what the query reads. Backward: states [R,Dk,Dv]
// are kept for one stretch at a time and made again from the state at its start; ds_all [R,Dk,Dv]
// is the gradient of the states; gq, gk [Dk] are sums over the value heads of a token; answer, gw
// [Dv] are D^T k and dw.
#include "core/ops/common/state_columns.h"
#include "core/ops/common/stretches.h"
#include "core/ops/delta_rule/delta_rule_kernels.h"

namespace ls::ops::delta_rule {
namespace {

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
void Recurrent<T>::forward(const Call<T>& call, DeltaRule::Out<TensorView>& out) {
  using A = acc_t<T>;
  const common::Result<T> o(out.o);
  const common::LastStates<A> states(out.sT, call.heads * call.group, call.size, call.seqs);
  const Index dk = call.dk, dv = call.dv;
  common::for_tasks(call.seqs, call.heads, call.group * 8 * call.size,
                    [&](Index first, Index last) {
                      common::Workspace<A> ws;
                      Token<A> token;
                      A *factor, *spare;
                      token.reserve(ws, dk, dv);
                      ws.add(1, factor);
                      ws.add(call.spare(), spare);
                      ws.allocate();
                      for (Index task = first; task < last; ++task) {
                        const Index n = task / call.heads, h = task % call.heads;
                        const common::Sequence& seq = call.seqs[n];
                        const Index b = seq.row, first_head = task * call.group;
                        A* const own = states.at(first_head, spare);
                        for (Index i = 0; i < seq.length; ++i) {
                          const Index t = seq.begin + i;
                          call.load_keys(call.q, b, t, h, 1, token.q, factor);
                          call.load_keys(call.k, b, t, h, 1, token.k, factor);
                          for (Index x = 0; x < dk; ++x) {
                            token.q[x] *= call.scale;
                          }
                          for (Index r = 0; r < call.group; ++r) {
                            const Index hv = h * call.group + r;
                            A* const s = own + r * call.size;
                            step(call, b, t, hv, decay_of<T, A>(call, b, t, hv),
                                 i > 0 ? s : call.s0.at(first_head + r), s, token);
                            o.store(b, t, hv, 1, dv, token.y);
                          }
                        }
                        if (seq.length == 0) {
                          call.s0.copy(first_head, call.group, own);
                        }
                      }
                    });
}

namespace {

/// One thread's pass backward.
template <class T>
class BackwardPass {
  using A = acc_t<T>;

 public:
  BackwardPass(const Call<T>& call, const common::Operand<T>& go,
               const common::LastGradients<A>& dsT, const Gradients<T>& grad)
      : call_(call), go_(go), dsT_(dsT), grad_(grad), kept_(ws_, call.longest, group_ * size_) {
    token_.reserve(ws_, dk_, dv_);
    ws_.add(group_ * size_, ds_all_);
    ws_.add(dk_, gq_, gk_);
    ws_.add(dv_, answer_, gw_);
    ws_.add(1, nq_, nk_);
    ws_.allocate();
  }
  void run(Index task) {
    const common::Sequence& seq = call_.seqs[task / call_.heads];
    const Index b = seq.row, h = task % call_.heads, first_head = task * group_;
    call_.s0.copy(first_head, group_, kept_.start());
    dsT_.copy(first_head, group_, ds_all_);
    kept_.backwards(
        seq.length,
        [&](Index i, const A* from, A* to) {
          const Index t = seq.begin + i;
          load(b, t, h);
          for (Index r = 0; r < group_; ++r) {
            const Index hv = h * group_ + r;
            step(call_, b, t, hv, decay_of<T, A>(call_, b, t, hv), from + r * size_, to + r * size_,
                 token_);
          }
        },
        [&](Index i, const A* before) { gradients(b, seq.begin + i, h, before); });
    if (A* const to = grad_.s0.at(first_head)) {
      std::copy(ds_all_, ds_all_ + group_ * size_, to);
    }
  }

 private:
  void load(Index b, Index t, Index h) {
    call_.load_keys(call_.q, b, t, h, 1, token_.q, nq_);
    call_.load_keys(call_.k, b, t, h, 1, token_.k, nk_);
  }
  void gradients(Index b, Index t, Index h, const A* before) {
    load(b, t, h);
    std::fill(gq_, gq_ + dk_, A(0));
    std::fill(gk_, gk_ + dk_, A(0));
    for (Index r = 0; r < group_; ++r) {
      const Index hv = h * group_ + r;
      const A decay = decay_of<T, A>(call_, b, t, hv);
      read(b, t, hv, decay, before + r * size_, ds_all_ + r * size_);
      const A through = change(b, t, hv, decay, before + r * size_, ds_all_ + r * size_);
      grad_.v.store(b, t, hv, 1, dv_, token_.v);
      grad_.store_beta(b, t, hv, dv_, gw_, token_.x);
      if (grad_.g.defined()) {
        *grad_.g.at(b, t, hv) = through;
      }
    }
    if (grad_.q.defined()) {
      call_.through_norm(1, token_.q, nq_, gq_);
      grad_.q.store(b, t, h, 1, dk_, gq_);
    }
    if (grad_.k.defined()) {
      call_.through_norm(1, token_.k, nk_, gk_);
      grad_.k.store(b, t, h, 1, dk_, gk_);
    }
  }
  /// y = scale do, which goes into ds; the answer, x, and dw.
  void read(Index b, Index t, Index hv, A decay, const A* s, A* ds) {
    A* __restrict y = token_.y;
    A* __restrict answer = answer_;
    A* __restrict gw = gw_;
    if (go_.defined()) {
      go_.load(b, t, hv, 1, dv_, y);
      for (Index c = 0; c < dv_; ++c) {
        y[c] *= call_.scale;
      }
    } else {
      std::fill(y, y + dv_, A(0));
    }
    call_.v.load(b, t, hv, 1, dv_, token_.x);
    std::fill(answer, answer + dv_, A(0));
    std::fill(gw, gw + dv_, A(0));
    for (Index j = 0; j < dk_; ++j) {
      const A* __restrict row = s + j * dv_;
      A* __restrict drow = ds + j * dv_;
      const A qj = token_.q[j], kj = token_.k[j];
      for (Index c = 0; c < dv_; ++c) {
        drow[c] += qj * y[c];
        answer[c] += kj * row[c];
        gw[c] += kj * drow[c];
      }
    }
    for (Index c = 0; c < dv_; ++c) {
      answer[c] *= decay;
      token_.x[c] -= answer[c];
    }
  }
  /// ds becomes the gradient of the state before, token.v that of x, which is that of v. The
  /// gradient of g.
  A change(Index b, Index t, Index hv, A decay, const A* s, A* ds) {
    const A* __restrict y = token_.y;
    A* __restrict w = token_.w;
    A* __restrict dx = token_.v;
    call_.times_beta(b, t, hv, token_.x, w);
    call_.times_beta(b, t, hv, gw_, dx);
    A wy = 0, through = 0;
    for (Index c = 0; c < dv_; ++c) {
      wy += w[c] * y[c];
      through -= answer_[c] * dx[c];
    }
    for (Index j = 0; j < dk_; ++j) {
      const A* __restrict row = s + j * dv_;
      A* __restrict drow = ds + j * dv_;
      A read_y = 0, read_dx = 0, written = 0, kept = 0;
#pragma omp simd reduction(+ : read_y, read_dx, written, kept)
      for (Index c = 0; c < dv_; ++c) {
        read_y += row[c] * y[c];
        read_dx += row[c] * dx[c];
        written += drow[c] * w[c];
        kept += row[c] * drow[c];
      }
      gq_[j] += decay * read_y + token_.k[j] * wy;
      gk_[j] += written - decay * read_dx;
      through += decay * kept;
      for (Index c = 0; c < dv_; ++c) {
        drow[c] = decay * (drow[c] - token_.k[j] * dx[c]);
      }
    }
    return through;
  }

  const Call<T>& call_;
  const common::Operand<T>& go_;
  const common::LastGradients<A>& dsT_;
  const Gradients<T>& grad_;
  const Index dk_ = call_.dk, dv_ = call_.dv, size_ = call_.size, group_ = call_.group;
  common::Workspace<A> ws_;
  common::Stretches<A> kept_;
  Token<A> token_;
  A *ds_all_, *gq_, *gk_, *answer_, *gw_, *nq_, *nk_;
};

}  // namespace

template <class T>
void Recurrent<T>::backward(const Call<T>& call, const DeltaRule::Out<TensorView>& dout,
                            DeltaRule::In<TensorView>& din) {
  const common::Operand<T> go(dout.o);
  const Gradients<T> grad(din, call);
  const common::LastGradients<acc_t<T>> dsT(dout.sT, call.heads * call.group, call.size, call.seqs);
  common::for_tasks(call.seqs, call.heads, 3 * call.group * 8 * call.size,
                    [&](Index first, Index last) {
                      BackwardPass<T> pass(call, go, dsT, grad);
                      for (Index task = first; task < last; ++task) {
                        pass.run(task);
                      }
                    });
  grad.s0.finish();
}

template struct Recurrent<double>;
template struct Recurrent<float>;
template struct Recurrent<bf16>;

}  // namespace ls::ops::delta_rule
