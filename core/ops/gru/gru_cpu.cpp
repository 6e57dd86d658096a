// All sequences advance together (common/cell_steps.h). A step is one product a head and one
// elementwise pass, rows shared out over threads; with the reset gate before the product of the
// candidate, gates r and z are made first and n by a second product and pass. Backward, the
// gradient of R is a product or two after the loop.
//   h, dh  [N,D]             of the sequences, longest first
//   pre    [N,heads,3d]      one step's products with R
//   gates  [B*T,3D]          r, z, n, kept     hidden [B*T,D] h_t, kept
//   inner  [B*T,D]           kept: h_{t-1} R_n^T + bias_n (after), r h_{t-1} (before)
//   all_gates [total,heads,3d]  gradients of products with R, all_before [total,D] the h_{t-1}
//          beside them: of all tokens, steps from the last to the first
//   all_new   [total,D]      beside them: gradients of n before its tanh (after), r h (before)
// A step reads R once and moves 3 D + 3 D values a sequence. Derivation: NOTES.md.
#include "core/backend/cpu/gemm.h"
#include "core/backend/cpu/simd_math.h"
#include "core/op/declare.h"
#include "core/op/report.h"
#include "core/ops/common/cell_steps.h"
#include "core/ops/gru/gru.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

using Op = Gru;
constexpr Index kElements = 2048;  // of a piece of the elementwise pass, at least

template <class T>
struct Call : common::CellSteps<acc_t<T>> {
  using A = acc_t<T>;
  bool before;
  Rows gx;
  const A *r, *bias, *bias_n;  ///< biases null: none
  Call(const Op::In<TensorView>& in, const Op::Attrs& a)
      : common::CellSteps<A>("gru", in.r, in.gx, in.offsets),
        before(a.reset == Reset::kBefore),
        gx(in.gx),
        r(in.r.template data<A>()),
        bias(common::elements<A>(in.bias)),
        bias_n(common::elements<A>(in.bias_n)) {}
  /// Rows of R of gates [first, last) of a head.
  const A* weights(Index head, Index first) const {
    return r + (head * 3 + first) * this->d * this->d;
  }
  /// f(i) for m rows, shared out over threads.
  template <class F>
  void for_rows(Index m, F&& f) const {
    parallel_for(m, row_grain(this->width, kElements), [&](Index i0, Index i1) {
      for (Index i = i0; i < i1; ++i) {
        f(i);
      }
    });
  }
};

template <class T>
class Forward {
  using A = acc_t<T>;

 public:
  Forward(const Call<T>& call, const Op::In<TensorView>& in, Op::Out<TensorView>& out)
      : call_(call),
        h_(call.firsts(in.h0)),
        pre_(call.count(), 3 * w_),
        reset_(call.before ? call.count() : Index{0}, w_),
        gates_(out.gates.template data<A>()),
        hidden_(out.hidden.template data<A>()),
        inner_(out.inner.template data<A>()),
        y_(out.y.template data<T>()) {}
  void run(TensorView& hT) {
    Index running = call_.count();
    for (Index t = 0; t <= call_.steps; ++t) {
      const Index m = t < call_.steps ? call_.active(t) : 0;
      for (; running > m; --running) {
        call_.put_last(h_, running - 1, hT);
      }
      if (m > 0) {
        step(t, m);
      }
    }
  }

 private:
  void step(Index t, Index m) {
    if (!call_.before) {
      product(m, h_, 0, 3);
      call_.for_rows(m, [&](Index i) {
        gates(i, t);
        after(i, t);
      });
      return;
    }
    product(m, h_, 0, 2);
    call_.for_rows(m, [&](Index i) {
      gates(i, t);
      const A *r = gates_ + call_.row(i, t) * 3 * w_, *h = h_.data() + i * w_;
      for (Index x = 0; x < w_; ++x) {
        reset_(i, x) = r[x] * h[x];
      }
    });
    product(m, reset_, 2, 3);
    call_.for_rows(m, [&](Index i) {
      std::copy_n(reset_.data() + i * w_, w_, inner_ + call_.row(i, t) * w_);
      candidate(i, t, [&](Index e, Index u) { return pre_(i, call_.in_product(2, e) + u); });
    });
  }
  /// pre of gates [first, last) of all heads.
  void product(Index m, const Buffer<A, 2>& from, Index first, Index last) {
    for (Index e = 0; e < call_.heads; ++e) {
      gemm<A>(false, true, m, (last - first) * d_, d_, 1.0, from.data() + e * d_, w_,
              call_.weights(e, first), d_, 0.0, pre_.data() + call_.in_product(first, e), 3 * w_);
    }
  }
  A input(const T* x, Index at) const { return convert<A>(x[at]) + (bias_ ? bias_[at] : A(0)); }
  /// r and z.
  void gates(Index i, Index t) {
    const Index row = call_.row(i, t);
    const T* __restrict x = call_.gx.template row<T>(row);
    A* __restrict g = gates_ + row * 3 * w_;
    for (Index gate = 0; gate < 2; ++gate) {
      for (Index e = 0; e < call_.heads; ++e) {
        const A* __restrict p = pre_.data() + i * 3 * w_ + call_.in_product(gate, e);
        const Index at = call_.block(gate, e);
        for (Index u = 0; u < d_; ++u) {
          g[at + u] = simd::sigmoid(p[u] + input(x, at + u));
        }
      }
    }
  }
  void after(Index i, Index t) {
    const Index row = call_.row(i, t);
    A* __restrict inner = inner_ + row * w_;
    const A* __restrict r = gates_ + row * 3 * w_;
    for (Index e = 0; e < call_.heads; ++e) {
      const A* __restrict p = pre_.data() + i * 3 * w_ + call_.in_product(2, e);
      for (Index u = 0; u < d_; ++u) {
        inner[e * d_ + u] = p[u] + (bias_n_ ? bias_n_[e * d_ + u] : A(0));
      }
    }
    candidate(i, t, [&](Index e, Index u) { return r[e * d_ + u] * inner[e * d_ + u]; });
  }
  /// n and h; `recurrent(head, unit)` is the recurrent part of n.
  template <class F>
  void candidate(Index i, Index t, F&& recurrent) {
    const Index row = call_.row(i, t);
    const T* __restrict x = call_.gx.template row<T>(row);
    A* __restrict g = gates_ + row * 3 * w_;
    A* __restrict h = h_.data() + i * w_;
    A* __restrict kept = hidden_ + row * w_;
    T* __restrict y = y_ + row * w_;
    for (Index e = 0; e < call_.heads; ++e) {
      const Index at = call_.block(2, e);
      for (Index u = 0; u < d_; ++u) {
        g[at + u] = simd::tanh(input(x, at + u) + recurrent(e, u));
      }
    }
    for (Index u = 0; u < w_; ++u) {
      const A z = g[w_ + u], n = g[2 * w_ + u], next = z * h[u] + (1 - z) * n;
      h[u] = next;
      kept[u] = next;
      y[u] = convert<T>(next);
    }
  }

  const Call<T>& call_;
  const Index w_ = call_.width, d_ = call_.d;
  const A* const bias_ = call_.bias;
  const A* const bias_n_ = call_.bias_n;
  Buffer<A, 2> h_, pre_, reset_;
  A *gates_, *hidden_, *inner_;
  T* y_;
};

template <class T>
class Backward {
  using A = acc_t<T>;

 public:
  Backward(const Call<T>& call, const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
           const Op::Out<TensorView>& dout, Op::In<TensorView>& din)
      : call_(call),
        dh_(call.last_gradients(dout.hT)),
        h0_(call.firsts(in.h0)),
        all_gates_(call.total, 3 * w_),
        all_before_(call.total, w_),
        all_new_(call.total, w_),
        dreset_(call.before ? call.count() : Index{0}, w_),
        zeros_(dout.y.defined() ? Tensor() : Tensor::zeros({1, w_}, dtype_of_v<T>)),
        dy_(dout.y.defined() ? dout.y : TensorView(zeros_)),
        read_(dout.y.defined()),
        gates_(out.gates.template data<A>()),
        hidden_(out.hidden.template data<A>()),
        inner_(out.inner.template data<A>()),
        dgx_(common::elements<T>(din.gx)) {}
  /// Gradients of the states wait in dh until their sequence begins to run backwards.
  void run(Op::In<TensorView>& din) {
    for (Index t = call_.steps - 1; t >= 0; --t) {
      const Index m = call_.active(t);
      step(t, m);
      done_ += m;
    }
    if (din.r.defined()) {
      of_weights(din.r.template data<A>());
    }
    if (din.bias.defined() || din.bias_n.defined()) {
      of_biases(din);
    }
    call_.put_first_gradients(dh_, din.h0);
  }

 private:
  void step(Index t, Index m) {
    call_.for_rows(m, [&](Index i) { row(i, t); });
    A* const rows = all_gates_.data() + done_ * 3 * w_;
    if (call_.before) {
      for (Index e = 0; e < call_.heads; ++e) {
        gemm<A>(false, false, m, d_, d_, 1.0, rows + call_.in_product(2, e), 3 * w_,
                call_.weights(e, 2), d_, 0.0, dreset_.data() + e * d_, w_);
      }
      call_.for_rows(m, [&](Index i) { through_reset(i, t); });
    }
    const Index gates = call_.before ? 2 : 3;
    for (Index e = 0; e < call_.heads; ++e) {
      gemm<A>(false, false, m, d_, gates * d_, 1.0, rows + call_.in_product(0, e), 3 * w_,
              call_.weights(e, 0), d_, 1.0, dh_.data() + e * d_, w_);
    }
  }
  /// Gradients of the products and of gx, and dh times z; with reset before, those of r are still
  /// to come.
  void row(Index i, Index t) {
    const Index at = call_.row(i, t);
    const A* __restrict g = gates_ + at * 3 * w_;
    const A* __restrict inner = inner_ + at * w_;
    const A* __restrict last = t > 0 ? hidden_ + (at - 1) * w_ : h0_.data() + i * w_;
    const T* __restrict gy = dy_.row<T>(read_ ? at : 0);
    A* __restrict dh = dh_.data() + i * w_;
    A* __restrict kept = all_new_.data() + (done_ + i) * w_;
    A* const to = all_gates_.data() + (done_ + i) * 3 * w_;
    std::copy_n(last, w_, all_before_.data() + (done_ + i) * w_);
    for (Index e = 0; e < call_.heads; ++e) {
      A* __restrict dr = to + call_.in_product(0, e);
      A* __restrict dz = dr + d_;
      A* __restrict dn = dz + d_;
      for (Index u = 0; u < d_; ++u) {
        const Index x = e * d_ + u;
        const A r = g[x], z = g[w_ + x], n = g[2 * w_ + x];
        const A dhidden = dh[x] + convert<A>(gy[x]);
        const A da = dhidden * (1 - z) * (1 - n * n);
        dr[u] = da * inner[x] * r * (1 - r);
        dz[u] = dhidden * (last[x] - n) * z * (1 - z);
        dn[u] = call_.before ? da : da * r;
        kept[x] = call_.before ? inner[x] : da;
        dh[x] = dhidden * z;
      }
      store(at, 0, e, dr);
      store(at, 1, e, dz);
      store(at, 2, e, call_.before ? dn : kept + e * d_);
    }
  }
  /// With reset before, from the gradient of r h: those of r and h.
  void through_reset(Index i, Index t) {
    const Index at = call_.row(i, t);
    const A* __restrict g = gates_ + at * 3 * w_;
    const A* __restrict last = all_before_.data() + (done_ + i) * w_;
    const A* __restrict du = dreset_.data() + i * w_;
    A* __restrict dh = dh_.data() + i * w_;
    for (Index e = 0; e < call_.heads; ++e) {
      A* __restrict dr = all_gates_.data() + (done_ + i) * 3 * w_ + call_.in_product(0, e);
      for (Index u = 0; u < d_; ++u) {
        const Index x = e * d_ + u;
        const A r = g[x];
        dr[u] = du[x] * last[x] * r * (1 - r);
        dh[x] += du[x] * r;
      }
      store(at, 0, e, dr);
    }
  }
  void store(Index row, Index gate, Index head, const A* __restrict from) {
    if (!dgx_) {
      return;
    }
    T* __restrict to = dgx_ + row * 3 * w_ + call_.block(gate, head);
    for (Index u = 0; u < d_; ++u) {
      to[u] = convert<T>(from[u]);
    }
  }
  void of_weights(A* dr) const {
    for (Index e = 0; e < call_.heads; ++e) {
      const auto product = [&](Index first, Index last, const Buffer<A, 2>& with) {
        gemm<A>(true, false, (last - first) * d_, d_, call_.total, 1.0,
                all_gates_.data() + call_.in_product(first, e), 3 * w_, with.data() + e * d_, w_,
                0.0, dr + (e * 3 + first) * d_ * d_, d_);
      };
      if (call_.before) {
        product(0, 2, all_before_);
        product(2, 3, all_new_);
      } else {
        product(0, 3, all_before_);
      }
    }
  }
  /// The product of n has bias_n inside; bias is outside, behind the reset gate.
  void of_biases(Op::In<TensorView>& din) const {
    Buffer<A> sums(3 * w_);
    call_.sum_bias(all_gates_, sums.data());
    A* const of_n = sums.data() + 2 * w_;
    if (din.bias_n.defined()) {
      std::copy_n(of_n, w_, din.bias_n.template data<A>());
    }
    if (!din.bias.defined()) {
      return;
    }
    if (!call_.before) {
      std::fill_n(of_n, w_, A(0));
      for (Index i = 0; i < call_.total; ++i) {
        for (Index x = 0; x < w_; ++x) {
          of_n[x] += all_new_(i, x);
        }
      }
    }
    std::copy_n(sums.data(), 3 * w_, din.bias.template data<A>());
  }

  const Call<T>& call_;
  const Index w_ = call_.width, d_ = call_.d;
  Buffer<A, 2> dh_, h0_, all_gates_, all_before_, all_new_, dreset_;
  Tensor zeros_;
  Rows dy_;
  bool read_;
  const A *gates_, *hidden_, *inner_;
  T* dgx_;
  Index done_ = 0;  // rows of all_gates_
};

template <class T>
void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& attrs) {
  report_form<Op>("recurrent");
  const Call<T> call(in, attrs);
  Forward<T>(call, in, out).run(out.hT);
}

template <class T>
void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
              const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs& attrs) {
  const Call<T> call(in, attrs);
  Backward<T>(call, in, out, dout, din).run(din);
}

LS_KERNEL(Gru).reads("gx y", lies::rows).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
