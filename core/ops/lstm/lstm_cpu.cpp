// All sequences advance together, longest first, so that those still running are the first rows of
// the state; a step is one product a head and one elementwise pass. The gradient of R is one
// product after the loop.
#include "core/ops/lstm/lstm.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/backend/cpu/gemm.h"
#include "core/backend/cpu/simd_math.h"
#include "core/op/report.h"
#include "core/ops/common/sequences.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

using Op = Lstm;

template <class T>
struct Call {
  using A = acc_t<T>;
  Index heads, d, width, tokens, steps = 0;
  std::vector<common::Sequence> seqs;
  std::vector<Index> order;  ///< sequences, longest first
  Rows gx;
  Tensor r, bias;

  explicit Call(const Op::In<Tensor>& in)
      : heads(in.r.size(0)),
        d(in.r.size(2)),
        width(heads * d),
        tokens(in.gx.size(1)),
        seqs(common::sequences(in.gx.size(0), in.gx.size(1), in.offsets, "lstm")),
        order(seqs.size()),
        gx(in.gx),
        r(in.r.contiguous()),
        bias(in.bias.defined() ? in.bias.contiguous() : Tensor()) {
    std::iota(order.begin(), order.end(), Index{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](Index a, Index b) { return at(a).length > at(b).length; });
    steps = order.empty() ? 0 : at(order[0]).length;
  }
  const common::Sequence& at(Index n) const { return seqs[static_cast<std::size_t>(n)]; }
  /// Sequences that are longer than t.
  Index active(Index t) const {
    Index n = 0;
    while (n < static_cast<Index>(order.size()) &&
           at(order[static_cast<std::size_t>(n)]).length > t) {
      ++n;
    }
    return n;
  }
  /// Row of [B*T] of step t of the i-th longest sequence.
  Index row(Index i, Index t) const {
    const common::Sequence& s = at(order[static_cast<std::size_t>(i)]);
    return s.row * tokens + s.begin + t;
  }
  void first_states(const Tensor& from, std::vector<A>& to) const {
    to.assign(order.size() * static_cast<std::size_t>(width), A(0));
    if (!from.defined()) {
      return;
    }
    const Tensor c = from.contiguous();
    for (std::size_t i = 0; i < order.size(); ++i) {
      const A* p = c.data<A>() + order[i] * width;
      std::copy(p, p + width, to.begin() + static_cast<std::ptrdiff_t>(i) * width);
    }
  }
};

template <class T>
void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs&) {
  report_form<Op>("recurrent");
  using A = acc_t<T>;
  const Call<T> call(in);
  const Index w = call.width, d = call.d, count = static_cast<Index>(call.order.size());
  std::vector<A> h, c, pre(static_cast<std::size_t>(count * 4 * w));
  call.first_states(in.h0, h);
  call.first_states(in.c0, c);
  A* gates = out.gates.data<A>();
  A* cells = out.cells.data<A>();
  T* y = out.y.data<T>();
  const A* r = call.r.template data<A>();
  Index running = count;
  const auto finish = [&](Index still) {
    for (; running > still; --running) {
      const Index n = call.order[static_cast<std::size_t>(running - 1)];
      std::copy_n(h.begin() + (running - 1) * w, w, out.hT.data<A>() + n * w);
      std::copy_n(c.begin() + (running - 1) * w, w, out.cT.data<A>() + n * w);
    }
  };
  for (Index t = 0; t < call.steps; ++t) {
    const Index m = call.active(t);
    finish(m);
    for (Index e = 0; e < call.heads; ++e) {
      // pre [m, heads, 4d]
      gemm<A>(false, true, m, 4 * d, d, 1.0, h.data() + e * d, w, r + e * 4 * d * d, d, 0.0,
              pre.data() + e * 4 * d, 4 * w);
    }
    parallel_for(m, std::max<Index>(1, 2048 / std::max<Index>(1, w)), [&](Index i0, Index i1) {
      for (Index i = i0; i < i1; ++i) {
        const Index row = call.row(i, t);
        const T* __restrict x = call.gx.template row<T>(row);
        A* __restrict g = gates + row * 4 * w;
        for (Index gate = 0; gate < 4; ++gate) {
          for (Index e = 0; e < call.heads; ++e) {
            const A* __restrict p = pre.data() + i * 4 * w + e * 4 * d + gate * d;
            const Index at = gate * w + e * d;
            for (Index u = 0; u < d; ++u) {
              const A b =
                  call.bias.defined() ? std::as_const(call.bias).template data<A>()[at + u] : A(0);
              const A v = p[u] + convert<A>(x[at + u]) + b;
              g[at + u] = gate == 2 ? simd::tanh(v) : simd::sigmoid(v);
            }
          }
        }
        for (Index u = 0; u < w; ++u) {
          const A cell = g[w + u] * c[static_cast<std::size_t>(i * w + u)] + g[u] * g[2 * w + u];
          c[static_cast<std::size_t>(i * w + u)] = cell;
          cells[row * w + u] = cell;
          const A hidden = g[3 * w + u] * simd::tanh(cell);
          h[static_cast<std::size_t>(i * w + u)] = hidden;
          y[row * w + u] = convert<T>(hidden);
        }
      }
    });
  }
  finish(0);
}

template <class T>
void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>& out, const Op::Out<Tensor>& dout,
              Op::In<Tensor>& din, const Op::Attrs&) {
  using A = acc_t<T>;
  const Call<T> call(in);
  const Index w = call.width, d = call.d, count = static_cast<Index>(call.order.size());
  std::vector<A> dh, dc, h0, c0, dgate(static_cast<std::size_t>(count * 4 * w));
  // Gradients of the last states wait until their sequence begins to run backwards.
  call.first_states(dout.hT, dh);
  call.first_states(dout.cT, dc);
  call.first_states(in.h0, h0);
  call.first_states(in.c0, c0);
  const A* gates = out.gates.data<A>();
  const A* cells = out.cells.data<A>();
  const A* r = call.r.template data<A>();
  const Rows dy(dout.y.defined() ? dout.y : Tensor::zeros(Shape{1, w}, dtype_of_v<T>));
  Index total = 0;
  for (const common::Sequence& s : call.seqs) {
    total += s.length;
  }
  // Rows in the order of the loop: gradients of gates by head, and the hidden state before the
  // step.
  std::vector<A> all_gates(static_cast<std::size_t>(total * 4 * w)),
      all_before(static_cast<std::size_t>(total * w));
  Index at_row = 0;
  for (Index t = call.steps - 1; t >= 0; --t) {
    const Index m = call.active(t);
    A* const step_gates = all_gates.data() + at_row * 4 * w;
    A* const step_before = all_before.data() + at_row * w;
    parallel_for(m, std::max<Index>(1, 2048 / std::max<Index>(1, w)), [&](Index i0, Index i1) {
      for (Index i = i0; i < i1; ++i) {
        const Index row = call.row(i, t);
        const A* __restrict g = gates + row * 4 * w;
        const T* gy = dout.y.defined() ? dy.row<T>(row) : dy.row<T>(0);
        for (Index e = 0; e < call.heads; ++e) {
          for (Index u = 0; u < d; ++u) {
            const Index x = e * d + u;
            const auto sx = static_cast<std::size_t>(i * w + x);
            const A gi = g[x], gf = g[w + x], gg = g[2 * w + x], go = g[3 * w + x];
            const A cell = cells[row * w + x], tc = simd::tanh(cell);
            const A before = t > 0 ? cells[(row - 1) * w + x] : c0[sx];
            const A dhid = dh[sx] + convert<A>(gy[x]);
            const A dcell = dc[sx] + dhid * go * (1 - tc * tc);
            A* to = step_gates + i * 4 * w + e * 4 * d + u;
            to[0] = dcell * gg * gi * (1 - gi);
            to[d] = dcell * before * gf * (1 - gf);
            to[2 * d] = dcell * gi * (1 - gg * gg);
            to[3 * d] = dhid * tc * go * (1 - go);
            dc[sx] = dcell * gf;
            // The hidden state before, from the gates and cell of the step before.
            step_before[i * w + x] =
                t > 0 ? gates[(row - 1) * 4 * w + 3 * w + x] * simd::tanh(before) : h0[sx];
          }
        }
        if (din.gx.defined()) {
          T* dx = din.gx.data<T>() + row * 4 * w;
          for (Index e = 0; e < call.heads; ++e) {
            for (Index gate = 0; gate < 4; ++gate) {
              for (Index u = 0; u < d; ++u) {
                dx[gate * w + e * d + u] =
                    convert<T>(step_gates[i * 4 * w + (e * 4 + gate) * d + u]);
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
    at_row += m;
  }
  if (din.r.defined()) {
    for (Index e = 0; e < call.heads; ++e) {
      gemm<A>(true, false, 4 * d, d, total, 1.0, all_gates.data() + e * 4 * d, 4 * w,
              all_before.data() + e * d, w, 0.0, din.r.data<A>() + e * 4 * d * d, d);
    }
  }
  if (din.bias.defined()) {
    A* db = din.bias.data<A>();
    std::fill(db, db + 4 * w, A(0));
    for (Index i = 0; i < total; ++i) {
      for (Index e = 0; e < call.heads; ++e) {
        for (Index gate = 0; gate < 4; ++gate) {
          for (Index u = 0; u < d; ++u) {
            db[gate * w + e * d + u] +=
                all_gates[static_cast<std::size_t>(i * 4 * w + (e * 4 + gate) * d + u)];
          }
        }
      }
    }
  }
  for (Index i = 0; i < count; ++i) {
    const Index n = call.order[static_cast<std::size_t>(i)];
    if (din.h0.defined()) {
      std::copy_n(dh.begin() + i * w, w, din.h0.data<A>() + n * w);
    }
    if (din.c0.defined()) {
      std::copy_n(dc.begin() + i * w, w, din.c0.data<A>() + n * w);
    }
  }
}

LS_KERNEL(Lstm).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
