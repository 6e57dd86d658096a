// Token by token. A thread owns one of kParts ranges of channels of one sequence: its states
// h [channels,S], and its share of the sums over channels, db and dc [B,T,G,S] of every range, da
// [D,S] of every sequence. Ranges do not depend on the threads, nor do the sums over them.
#include <algorithm>

#include "core/backend/cpu/simd_math.h"
#include "core/ops/common/stretches.h"
#include "core/ops/selective_scan/selective_scan.h"

namespace ls::ops {
namespace {

using Op = SelectiveScan;

constexpr Index kParts = 8;

template <class T>
struct Call {
  using A = acc_t<T>;
  const Op::In<TensorView>& in;
  Index d = in.x.size(2), s = in.a.size(1), groups = in.b.size(2), tokens = in.x.size(1);
  std::vector<common::Sequence> seqs =
      common::sequences(in.x.size(0), tokens, in.offsets, "selective_scan");
  const T *x = in.x.data<T>(), *b = in.b.data<T>(), *c = in.c.data<T>();
  const A *dt = in.dt.data<A>(), *a = in.a.data<A>();
  common::FirstStates<A> s0{in.s0, d, s, seqs};  ///< of channels

  /// f(sequence, part, first channel, channels)
  template <class F>
  void for_parts(F&& f) const {
    parallel_for(std::ssize(seqs) * kParts, 1, [&](Index from, Index to) {
      for (Index i = from; i < to; ++i) {
        const Index part = i % kParts, first = d * part / kParts;
        f(i / kParts, part, first, d * (part + 1) / kParts - first);
      }
    });
  }
  Index row(const common::Sequence& seq, Index i) const { return seq.row * tokens + seq.begin + i; }
  /// Of b and c at a token and channel.
  Index in_group(Index row, Index channel) const {
    return (row * groups + channel / (d / groups)) * s;
  }
  /// States of channels [first, first + n) after a token, of those before it, which may be the same
  /// place; y [n] where it is wanted.
  void step(Index row, Index first, Index n, const A* from, A* to, T* y) const {
    for (Index k = 0; k < n; ++k) {
      const Index ch = first + k, g = in_group(row, ch);
      const A step = dt[row * d + ch], written = step * convert<A>(x[row * d + ch]);
      const A* __restrict rate = a + ch * s;
      A sum = 0;
#pragma omp simd reduction(+ : sum)
      for (Index i = 0; i < s; ++i) {
        const A h = simd::exp(step * rate[i]) * from[k * s + i] + written * convert<A>(b[g + i]);
        to[k * s + i] = h;
        sum += convert<A>(c[g + i]) * h;
      }
      if (y) {
        y[k] = convert<T>(sum);
      }
    }
  }
};

/// to = the sum of parts [n,size], in their order; nothing where nobody wants it.
template <class A, class T>
void add_parts(const std::vector<A>& parts, Index size, T* to) {
  parallel_for(to ? size : 0, 4096, [&](Index from, Index end) {
    for (Index i = from; i < end; ++i) {
      A sum = 0;
      for (Index p = i; p < std::ssize(parts); p += size) {
        sum += parts[static_cast<std::size_t>(p)];
      }
      to[i] = convert<T>(sum);
    }
  });
}

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const Call<T> call{in};
    T* const y = out.y.data<T>();
    const common::LastStates<A> sT(out.sT, call.d, call.s, call.seqs);
    call.for_parts([&](Index n, Index, Index first, Index count) {
      const common::Sequence& seq = call.seqs[static_cast<std::size_t>(n)];
      std::vector<A> spare(static_cast<std::size_t>(seq.end < 0 ? count * call.s : 0));
      A* const h = sT.at(n * call.d + first, spare.data());
      call.s0.copy(n * call.d + first, count, h);
      for (Index i = 0; i < seq.length; ++i) {
        const Index row = call.row(seq, i);
        call.step(row, first, count, h, h, y + row * call.d + first);
      }
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const Call<T> call{in};
    const T* const dy = common::elements<T>(dout.y);
    T* const dx = common::elements<T>(din.x);
    A* const ddt = common::elements<A>(din.dt);
    const common::FirstGradients<A> ds0(din.s0, call.d, call.s, call.seqs);
    const common::LastGradients<A> dsT(dout.sT, call.d, call.s, call.seqs);
    const Index s = call.s, shared = in.b.numel(), rates = call.d * s;
    const auto buffer = [](Index n) { return std::vector<A>(static_cast<std::size_t>(n)); };
    std::vector<A> db = buffer(kParts * shared), dc = db,
                   da = buffer(std::ssize(call.seqs) * rates);
    call.for_parts([&](Index n, Index part, Index first, Index count) {
      const common::Sequence& seq = call.seqs[static_cast<std::size_t>(n)];
      common::Workspace<A> ws;
      A* dh = nullptr;
      ws.add(count * s, dh);
      const common::Stretches<A> kept(ws, seq.length, count * s, true);
      ws.allocate();
      call.s0.copy(n * call.d + first, count, kept.start());
      dsT.copy(n * call.d + first, count, dh);
      const auto back = [&](Index i, const A* before) {
        const Index row = call.row(seq, i);
        for (Index k = 0; k < count; ++k) {
          const Index ch = first + k, g = call.in_group(row, ch), e = row * call.d + ch;
          const A *old = before + k * s, *now = old + count * s, *rate = call.a + ch * s;
          const A step = call.dt[e], x = convert<A>(call.x[e]), gy = dy ? convert<A>(dy[e]) : A(0);
          A* __restrict grad = dh + k * s;
          A* __restrict to_b = db.data() + part * shared + g;
          A* __restrict to_c = dc.data() + part * shared + g;
          A* __restrict to_a = da.data() + n * rates + ch * s;
          A written = 0, decayed = 0;
#pragma omp simd reduction(+ : written, decayed)
          for (Index j = 0; j < s; ++j) {
            const A gh = grad[j] + gy * convert<A>(call.c[g + j]),
                    decay = simd::exp(step * rate[j]);
            const A through = gh * decay * old[j];
            to_c[j] += gy * now[j];
            to_b[j] += gh * step * x;
            to_a[j] += step * through;
            written += gh * convert<A>(call.b[g + j]);
            decayed += rate[j] * through;
            grad[j] = gh * decay;
          }
          if (dx) {
            dx[e] = convert<T>(step * written);
          }
          if (ddt) {
            ddt[e] = decayed + x * written;
          }
        }
      };
      const auto run = [&](Index i, const A* from, A* to) {
        call.step(call.row(seq, i), first, count, from, to, nullptr);
      };
      kept.backwards(seq.length, run, back);
      if (A* const to = ds0.at(n * call.d + first)) {
        std::copy(dh, dh + count * s, to);
      }
    });
    ds0.finish();
    add_parts(db, shared, common::elements<T>(din.b));
    add_parts(dc, shared, common::elements<T>(din.c));
    add_parts(da, rates, common::elements<A>(din.a));
  }
};

LS_KERNEL(SelectiveScan).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
