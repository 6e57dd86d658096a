// All sequences advance together, longest first, so that those still running are the first M rows
// of the state. A step is one product a head, pre = h R^T, and one elementwise pass; rows of the
// pass are shared out over threads. Backward, the gradient of R is one product after the loop.
//   h, c, dh, dc [N,D]       of the sequences, longest first
//   pre          [N,heads,4d]  one step's gates before bias, input part and activation
//   gates, cells [B*T,4D], [B*T,D]  outputs that are kept; a row of gates is blocks i, f, g, o of D
//   all_gates    [total,heads,4d]   gradients before the activations, all_before [total,D] the
//                h_{t-1} beside them: of all tokens, steps from the last to the first
// A step reads R once and moves 4 D + 2 D values a sequence. Derivation: NOTES.md.
#include <algorithm>

#include "core/backend/cpu/gemm.h"
#include "core/backend/cpu/simd_math.h"
#include "core/op/declare.h"
#include "core/op/report.h"
#include "core/ops/common/cell_steps.h"
#include "core/ops/lstm/lstm.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

using Op = Lstm;
constexpr Index kElements = 2048;  // of a piece of the elementwise pass, at least

template <class T>
struct Call : common::CellSteps<acc_t<T>> {
  using A = acc_t<T>;
  Rows gx;
  const A *r, *bias;  ///< null: none
  explicit Call(const Op::In<TensorView>& in)
      : common::CellSteps<A>("lstm", in.r, in.gx, in.offsets),
        gx(in.gx),
        r(in.r.template data<A>()),
        bias(common::elements<A>(in.bias)) {}
};

template <class T>
void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
  report_form<Op>("recurrent");
  using A = acc_t<T>;
  const Call<T> call(in);
  const Index w = call.width, d = call.d;
  Buffer<A, 2> h = call.firsts(in.h0), c = call.firsts(in.c0), pre(call.count(), 4 * w);
  A* const gates = out.gates.data<A>();
  A* const cells = out.cells.data<A>();
  T* const y = out.y.data<T>();
  const A *const r = call.r, *const bias = call.bias;
  Index running = call.count();
  const auto finish = [&](Index still) {
    for (; running > still; --running) {
      call.put_last(h, running - 1, out.hT);
      call.put_last(c, running - 1, out.cT);
    }
  };
  for (Index t = 0; t < call.steps; ++t) {
    const Index m = call.active(t);
    finish(m);
    for (Index e = 0; e < call.heads; ++e) {
      gemm<A>(false, true, m, 4 * d, d, 1.0, h.data() + e * d, w, r + e * 4 * d * d, d, 0.0,
              pre.data() + e * 4 * d, 4 * w);
    }
    parallel_for(m, row_grain(w, kElements), [&](Index i0, Index i1) {
      for (Index i = i0; i < i1; ++i) {
        const Index row = call.row(i, t);
        const T* __restrict x = call.gx.template row<T>(row);
        A* __restrict g = gates + row * 4 * w;
        A* __restrict ci = c.data() + i * w;
        A* __restrict hi = h.data() + i * w;
        for (Index gate = 0; gate < 4; ++gate) {
          for (Index e = 0; e < call.heads; ++e) {
            const A* __restrict p = pre.data() + i * 4 * w + call.in_product(gate, e);
            const Index at = call.block(gate, e);
            for (Index u = 0; u < d; ++u) {
              const A v = p[u] + convert<A>(x[at + u]) + (bias ? bias[at + u] : A(0));
              g[at + u] = gate == 2 ? simd::tanh(v) : simd::sigmoid(v);
            }
          }
        }
        for (Index u = 0; u < w; ++u) {
          const A cell = g[w + u] * ci[u] + g[u] * g[2 * w + u];
          ci[u] = cell;
          cells[row * w + u] = cell;
          const A hidden = g[3 * w + u] * simd::tanh(cell);
          hi[u] = hidden;
          y[row * w + u] = convert<T>(hidden);
        }
      }
    });
  }
  finish(0);
}

template <class T>
void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
              const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
  using A = acc_t<T>;
  const Call<T> call(in);
  const Index w = call.width, d = call.d;
  // Gradients of the last states wait until their sequence begins to run backwards.
  Buffer<A, 2> dh = call.last_gradients(dout.hT), dc = call.last_gradients(dout.cT);
  const Buffer<A, 2> h0 = call.firsts(in.h0), c0 = call.firsts(in.c0);
  const A* const gates = out.gates.data<A>();
  const A* const cells = out.cells.data<A>();
  const A* const r = call.r;
  const Tensor zeros = dout.y.defined() ? Tensor() : Tensor::zeros({1, w}, dtype_of_v<T>);
  const Rows dy(dout.y.defined() ? dout.y : TensorView(zeros));
  T* const dgx = common::elements<T>(din.gx);
  Buffer<A, 2> all_gates(call.total, 4 * w), all_before(call.total, w);
  Index done = 0;  // rows of these
  for (Index t = call.steps - 1; t >= 0; --t) {
    const Index m = call.active(t);
    A* const step_gates = all_gates.data() + done * 4 * w;
    A* const step_before = all_before.data() + done * w;
    parallel_for(m, row_grain(w, kElements), [&](Index i0, Index i1) {
      for (Index i = i0; i < i1; ++i) {
        const Index row = call.row(i, t);
        const A* __restrict g = gates + row * 4 * w;
        const T* gy = dy.row<T>(dout.y.defined() ? row : 0);
        A* const to_gates = step_gates + i * 4 * w;
        for (Index e = 0; e < call.heads; ++e) {
          for (Index u = 0; u < d; ++u) {
            const Index x = e * d + u;
            const A gi = g[x], gf = g[w + x], gg = g[2 * w + x], go = g[3 * w + x];
            const A cell = cells[row * w + x], tc = simd::tanh(cell);
            const A before = t > 0 ? cells[(row - 1) * w + x] : c0(i, x);
            const A dhid = dh(i, x) + convert<A>(gy[x]);
            const A dcell = dc(i, x) + dhid * go * (1 - tc * tc);
            A* const to = to_gates + e * 4 * d + u;
            to[0] = dcell * gg * gi * (1 - gi);
            to[d] = dcell * before * gf * (1 - gf);
            to[2 * d] = dcell * gi * (1 - gg * gg);
            to[3 * d] = dhid * tc * go * (1 - go);
            dc(i, x) = dcell * gf;
            // The hidden state before, from the gates and cell of the step before.
            step_before[i * w + x] =
                t > 0 ? gates[(row - 1) * 4 * w + 3 * w + x] * simd::tanh(before) : h0(i, x);
          }
        }
        if (dgx) {
          T* __restrict to = dgx + row * 4 * w;
          for (Index e = 0; e < call.heads; ++e) {
            for (Index gate = 0; gate < 4; ++gate) {
              for (Index u = 0; u < d; ++u) {
                to[call.block(gate, e) + u] = convert<T>(to_gates[call.in_product(gate, e) + u]);
              }
            }
          }
        }
      }
    });
    for (Index e = 0; e < call.heads; ++e) {
      gemm<A>(false, false, m, d, 4 * d, 1.0, step_gates + e * 4 * d, 4 * w, r + e * 4 * d * d, d,
              0.0, dh.data() + e * d, w);
    }
    done += m;
  }
  if (din.r.defined()) {
    for (Index e = 0; e < call.heads; ++e) {
      gemm<A>(true, false, 4 * d, d, call.total, 1.0, all_gates.data() + e * 4 * d, 4 * w,
              all_before.data() + e * d, w, 0.0, din.r.data<A>() + e * 4 * d * d, d);
    }
  }
  if (din.bias.defined()) {
    call.sum_bias(all_gates, din.bias.data<A>());
  }
  call.put_first_gradients(dh, din.h0);
  call.put_first_gradients(dc, din.c0);
}

LS_KERNEL(Lstm).reads("gx y", lies::rows).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
