#pragma once
// The matrix LSTM as a linear scan in blocks (core/ops/common/linear_scan/), any sizes: the
// normaliser is one more column of the state, of values 1. Before it a walk over the tokens of each
// sequence makes the running maximum m, after it one makes the gradients of gates.
#include "core/op/report.h"
#include "core/ops/common/linear_scan/operands.h"
#include "core/ops/mlstm/mlstm.h"

namespace ls::ops::mlstm {

using linear_scan::Block;
using linear_scan::kThreads;
using linear_scan::Rows;

/// What is made beside the scan; numbers of a token are [B,T,H].
template <class T>
struct Gates {
  using A = acc_t<T>;
  linear_scan::Call<T, A> scan;
  Rows<const A> i, f;
  const A* m0 = nullptr;  ///< [entries,H]
  A* mT = nullptr;
  bool stabilize = true, normalize = true;
  A eps = 0;
  A *m = nullptr, *kept = nullptr, *written = nullptr;  ///< kept: log(exp(f + m' - m))
  Rows<T> o;
  A* read = nullptr;  ///< [B,T,H,Dv+1]: what queries read
  // Backward.
  Rows<const T> go;
  const A* gmT = nullptr;
  A *gread = nullptr, *gm = nullptr, *gkept = nullptr, *gwritten = nullptr;
  A* gm_first = nullptr;  ///< [sequences,H]
  Rows<A> di, df;
  A* dm0 = nullptr;

  LS_ON_DEVICE Index at(const common::Stretch& s, Index t, Index h) const {
    return (s.row * scan.tokens + s.token + t) * scan.heads + h;
  }
  LS_ON_DEVICE A first(const common::Stretch& s, Index h) const {
    return m0 && s.start >= 0 ? m0[s.start * scan.heads + h] : A(0);
  }
};

/// f(sequence, number of it, head), a thread each.
template <class Gates, class F>
LS_ON_DEVICE void each_walk(const Block& block, const Gates& g, F&& f) {
  common::each_of(block, g.scan.sequences.count * g.scan.heads, [&](Index i) {
    const Index n = i / g.scan.heads;
    f(g.scan.sequences.at[n], n, i % g.scan.heads);
  });
}

template <class T>
struct WalkForward {
  using A = acc_t<T>;
  struct Shared {};
  static constexpr int kAhead = 8;  ///< tokens that are read together
  LS_ON_DEVICE static void run(const Block& block, const Gates<T>& g, Shared*) {
    each_walk(block, g, [&](const common::Stretch& s, Index, Index h) {
      A m = g.first(s, h);
      for (Index t0 = 0; t0 < s.length; t0 += kAhead) {
        A in[kAhead], forget[kAhead];
        for (int n = 0; n < kAhead; ++n) {
          const bool there = t0 + n < s.length;
          in[n] = there ? *g.i.at(s.row, s.token + t0 + n, h) : A(0);
          forget[n] = there ? *g.f.at(s.row, s.token + t0 + n, h) : A(0);
        }
        for (int n = 0; n < kAhead && t0 + n < s.length; ++n) {
          const A through = forget[n] + m;
          const A next = !g.stabilize ? A(0) : (through > in[n] ? through : in[n]);
          const Index at = g.at(s, t0 + n, h);
          g.m[at] = next;
          g.kept[at] = forget[n] + (m - next);
          g.written[at] = std::exp(in[n] - next);
          m = next;
        }
      }
      if (g.mT && s.end >= 0) {
        g.mT[s.end * g.scan.heads + h] = m;
      }
    });
  }
};

/// What a row of `read` gives; below: what values are divided by.
template <class T>
struct Reading {
  using A = acc_t<T>;
  const A* row;
  A sum, floor, below;
  LS_ON_DEVICE Reading(const Gates<T>& g, Index at)
      : row(g.read + at * g.scan.dv),
        sum(row[g.scan.value_dv]),
        floor(std::exp(-g.m[at])),
        below(1) {
    if (g.normalize) {
      const A size = std::abs(sum);
      below = (size > floor ? size : floor) + g.eps;
    }
  }
};
/// f(row of [B*T*H], batch row, token, head), a thread each.
template <class Gates, class F>
LS_ON_DEVICE void each_row(const Block& block, const Gates& g, F&& f) {
  common::each_of(block, g.scan.batch * g.scan.tokens * g.scan.heads, [&](Index at) {
    const Index token = at / g.scan.heads;
    f(at, token / g.scan.tokens, token % g.scan.tokens, at % g.scan.heads);
  });
}

template <class T>
struct Divide {
  using A = acc_t<T>;
  struct Shared {};
  LS_ON_DEVICE static void run(const Block& block, const Gates<T>& g, Shared*) {
    each_row(block, g, [&](Index at, Index b, Index t, Index h) {
      const Reading<T> r(g, at);
      T* const to = g.o.at(b, t, h);
      for (Index c = 0; c < g.scan.value_dv; ++c) {
        to[c] = convert<T>(r.row[c] / r.below);
      }
    });
  }
};
/// Gradients of what queries read, and of m beside the states.
template <class T>
struct DivideBack {
  using A = acc_t<T>;
  struct Shared {};
  LS_ON_DEVICE static void run(const Block& block, const Gates<T>& g, Shared*) {
    each_row(block, g, [&](Index at, Index b, Index t, Index h) {
      const Reading<T> r(g, at);
      const T* const go = g.go ? g.go.at(b, t, h) : nullptr;
      A* const to = g.gread + at * g.scan.dv;
      A dbelow = 0;
      for (Index c = 0; c < g.scan.value_dv; ++c) {
        const A d = go ? convert<A>(go[c]) : A(0);
        dbelow -= d * r.row[c] / (r.below * r.below);
        to[c] = d / r.below;
      }
      A dsum = 0, dm = 0;
      if (g.normalize && std::abs(r.sum) > r.floor) {
        dsum = r.sum > 0 ? dbelow : -dbelow;
      } else if (g.normalize) {
        dm = -dbelow * r.floor;
      }
      to[g.scan.value_dv] = dsum;
      g.gm[at] = dm;
    });
  }
};

template <class T>
struct WalkBack {
  using A = acc_t<T>;
  struct Shared {};
  LS_ON_DEVICE static void run(const Block& block, const Gates<T>& g, Shared*) {
    each_walk(block, g, [&](const common::Stretch& s, Index number, Index h) {
      A dm = g.gmT && s.end >= 0 ? g.gmT[s.end * g.scan.heads + h] : A(0);
      for (Index t = s.length - 1; t >= 0; --t) {
        const Index at = g.at(s, t, h);
        const A before = t > 0 ? g.m[at - g.scan.heads] : g.first(s, h);
        const A in = *g.i.at(s.row, s.token + t, h), forget = *g.f.at(s.row, s.token + t, h);
        const bool from_input = in > forget + before;
        const A through = g.gkept[at], input = g.gwritten[at] * g.written[at];
        const A d = g.stabilize ? dm + g.gm[at] - through - input : A(0);
        dm = through + (from_input ? A(0) : d);
        if (g.di) {
          *g.di.at(s.row, s.token + t, h) = input + (from_input ? d : A(0));
        }
        if (g.df) {
          *g.df.at(s.row, s.token + t, h) = dm;
        }
      }
      if (g.gm_first) {
        g.gm_first[number * g.scan.heads + h] = dm;
      }
    });
  }
};
/// Gradients of incoming maxima: of the sequences that start from one. A block is an entry.
template <class T>
struct SumMaxima {
  using A = acc_t<T>;
  struct Shared {};
  LS_ON_DEVICE static void run(const Block& block, const Gates<T>& g, Shared*) {
    block.each(static_cast<int>(g.scan.heads), [&](int h) {
      A sum = 0;
      for (Index n = 0; n < g.scan.sequences.count; ++n) {
        if (g.scan.sequences.at[n].start == block.x) {
          sum += g.gm_first[n * g.scan.heads + h];
        }
      }
      g.dm0[block.x * g.scan.heads + h] = sum;
    });
  }
};

template <class Machine, class T>
struct Blocks {
  using A = acc_t<T>;
  using Op = Mlstm;

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out,
                      const Op::Attrs& attrs) {
    Machine machine;
    Gates<T> g = gates_of(machine, in, attrs);
    report_form<Op>("chunk of {}", linear_scan::Call<T, A>::C);
    g.mT = common::elements<A>(out.mT);
    g.o = linear_scan::rows_to<T>(out.o);
    g.scan.sT = {common::elements<A>(out.cT), common::elements<A>(out.nT), g.scan.value_dv};
    walk(machine, g);
    linear_scan::prepare(machine, g.scan);
    linear_scan::loop_forward(machine, g.scan);
    machine.template launch<Divide<T>>({rows(g), 1, 1}, g);
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& attrs) {
    using linear_scan::rows_to, linear_scan::rows_at, linear_scan::take;
    Machine machine;
    Gates<T> g = gates_of(machine, in, attrs);
    linear_scan::Call<T, A>& c = g.scan;
    const Index all = c.batch * c.tokens * c.heads;
    g.go = linear_scan::rows_in<T>(dout.o);
    g.gmT = common::elements<A>(dout.mT);
    c.gsT = {common::elements<A>(dout.cT), common::elements<A>(dout.nT), c.value_dv};
    c.dq = rows_to<T>(din.q);
    c.dk_ = rows_to<T>(din.k);
    c.dv_ = rows_to<T>(din.v);
    c.ds0 = {common::elements<A>(din.c0), common::elements<A>(din.n0), c.value_dv};
    g.di = rows_to<A>(din.i);
    g.df = rows_to<A>(din.f);
    g.dm0 = common::elements<A>(din.m0);
    take(machine, all * c.dv, g.gread);
    take(machine, all, g.gm, g.gkept, g.gwritten);
    take(machine, c.sequences.count * c.heads, g.gm_first);
    c.dg = rows_at(g.gkept, c.tokens, c.heads, Index{1});
    c.dweight = rows_at(g.gwritten, c.tokens, c.heads, Index{1});
    walk(machine, g);
    linear_scan::backward(machine, c, [&](linear_scan::Call<T, A>& call) {
      machine.template launch<DivideBack<T>>({rows(g), 1, 1}, g);
      call.go = rows_at<const A>(g.gread, call.tokens, call.heads, call.dv);
    });
    machine.template launch<WalkBack<T>>({walks(g), 1, 1}, g);
    if (g.dm0) {
      machine.template launch<SumMaxima<T>>({in.m0.size(0), 1, 1}, g);
    }
  }

 private:
  static Index rows(const Gates<T>& g) {
    return common::blocks_of(g.scan.batch * g.scan.tokens * g.scan.heads, kThreads);
  }
  static Index walks(const Gates<T>& g) {
    return common::blocks_of(g.scan.sequences.count * g.scan.heads, kThreads);
  }
  static void walk(Machine& machine, Gates<T>& g) {
    linear_scan::make_tables(machine, g.scan);
    machine.template launch<WalkForward<T>>({walks(g), 1, 1}, g);
  }
  static Gates<T> gates_of(Machine& machine, const Op::In<TensorView>& in, const Op::Attrs& attrs) {
    using linear_scan::rows_in, linear_scan::rows_at;
    Gates<T> g;
    linear_scan::Call<T, A>& c = g.scan;
    Index entries = 0;
    for (const TensorView* s : {&in.c0, &in.n0, &in.m0}) {
      entries = std::max(entries, linear_scan::entries_of(*s));
    }
    linear_scan::set_extents("mlstm", c, in.k, in.v, in.offsets, entries);
    c.dv = c.value_dv + 1;
    c.scale = A(attrs.scale);
    c.q = rows_in<T>(in.q);
    c.k = rows_in<T>(in.k);
    c.v = rows_in<T>(in.v);
    c.s0 = {common::elements<A>(in.c0), common::elements<A>(in.n0), c.value_dv};
    const Index all = c.batch * c.tokens * c.heads;
    linear_scan::take(machine, all, g.m, g.kept, g.written);
    linear_scan::take(machine, all * c.dv, g.read);
    c.g = rows_at<const A>(g.kept, c.tokens, c.heads, 1);
    c.weight = rows_at<const A>(g.written, c.tokens, c.heads, 1);
    c.o = rows_at(g.read, c.tokens, c.heads, c.dv);
    g.i = rows_in<A>(in.i);
    g.f = rows_in<A>(in.f);
    g.m0 = common::elements<A>(in.m0);
    g.stabilize = attrs.stabilize;
    g.normalize = attrs.normalize;
    g.eps = A(attrs.eps);
    return g;
  }
};

}  // namespace ls::ops::mlstm
