// h_t = exp(g_t) h_{t-1} + u_t, channel by channel. A task is one sequence and a block of 64
// channels, whose w states stay in cache from token to token; loops over channels are vectors. No
// sum crosses tasks. Forward reads u and g and writes y, once each; backward reads g, y and dy and
// writes du and dg. Rows of a block:
//   h, dh  [w]  in hT and dh0, or where that is not wanted in a buffer
#include <array>

#include "core/op/declare.h"
#include "core/ops/common/chunks.h"
#include "core/ops/gated_scan/gated_scan.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

using Op = GatedScan;
constexpr Index kChannels = 64;  // of a block
constexpr Index kFlops = 20;     // of a token and channel, most of them of exp

/// One sequence and block of channels; rows of [B*T].
struct Task {
  Index n, first, length, c0, w;
};
struct Call {
  explicit Call(const Op::In<TensorView>& in)
      : tokens(in.g.size(1)),
        width(in.g.size(2)),
        seqs(common::sequences(in.g.size(0), tokens, in.offsets, "gated_scan")) {}
  template <class F>
  void for_tasks(F&& f) const {
    const Index blocks = common::pieces(width, kChannels);
    common::for_tasks(seqs, blocks, kFlops * kChannels, [&](Index from, Index to) {
      for (Index i = from; i < to; ++i) {
        const common::Sequence& s = seqs[i / blocks];
        const Index c0 = i % blocks * kChannels;
        f(Task{i / blocks, s.row * tokens + s.begin, s.length, c0,
               std::min(kChannels, width - c0)});
      }
    });
  }
  Index tokens, width;
  std::vector<common::Sequence> seqs;
};

/// Block of a state; zeros where absent.
template <class States, class A>
void load(const States& states, const Task& task, A* to) {
  if (const A* from = states.at(task.n)) {
    std::copy_n(from + task.c0, task.w, to);
  } else {
    std::fill_n(to, task.w, A(0));
  }
}

template <class T>
struct Kernel {
  using A = acc_t<T>;

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    report_form<Op>("recurrent");
    const Call call(in);
    const Rows u(in.u), g(in.g);
    const common::FirstStates<A> h0(in.h0, 1, call.width, call.seqs);
    const common::LastStates<A> hT(out.hT, 1, call.width, call.seqs);
    call.for_tasks([&](const Task& task) {
      std::array<A, kChannels> unwanted;
      A* const last = hT.at(task.n);
      A* __restrict h = last ? last + task.c0 : &unwanted[0];
      load(h0, task, h);
      for (Index t = task.first; t < task.first + task.length; ++t) {
        const T* ut = u.row<T>(t) + task.c0;
        const A* gt = g.row<A>(t) + task.c0;
        T* __restrict yt = out.y.data<T>() + t * call.width + task.c0;
        for (Index c = 0; c < task.w; ++c) {
          h[c] = simd::exp(gt[c]) * h[c] + convert<A>(ut[c]);
          yt[c] = convert<T>(h[c]);
        }
      }
    });
  }

  /// Of one token: before [w] is h_{t-1}, dh becomes its gradient.
  template <class Before>
  static void step(Index w, const A* g, const Before* before, const T* dy, A* __restrict dh,
                   T* __restrict du, A* __restrict dg) {
    for (Index c = 0; c < w; ++c) {
      const A here = dh[c] + convert<A>(dy[c]);
      const A kept = simd::exp(g[c]) * here;
      du[c] = convert<T>(here);
      dg[c] = kept * convert<A>(before[c]);
      dh[c] = kept;
    }
  }

  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const Call call(in);
    const Rows g(in.g), dy(dout.y.defined() ? dout.y : out.y);
    const common::FirstStates<A> h0(in.h0, 1, call.width, call.seqs);
    const common::LastGradients<A> dhT(dout.hT, 1, call.width, call.seqs);
    const common::FirstGradients<A> dh0(din.h0, 1, call.width, call.seqs);
    const std::array<T, kChannels> no_dy{};
    call.for_tasks([&](const Task& task) {
      // Where gradients go that are not wanted, and what precedes the first token.
      std::array<A, kChannels> dg_row, dh_row, before;
      std::array<T, kChannels> du_row;
      A* const first = dh0.at(task.n);
      A* const dh = first ? first + task.c0 : &dh_row[0];
      load(dhT, task, dh);
      load(h0, task, &before[0]);
      for (Index t = task.first + task.length - 1; t >= task.first; --t) {
        const Index at = t * call.width + task.c0;
        const A* gt = g.row<A>(t) + task.c0;
        const T* dyt = dout.y.defined() ? dy.row<T>(t) + task.c0 : &no_dy[0];
        T* du = din.u.defined() ? din.u.data<T>() + at : &du_row[0];
        A* dg = din.g.defined() ? din.g.data<A>() + at : &dg_row[0];
        if (t > task.first) {
          step(task.w, gt, out.y.data<T>() + at - call.width, dyt, dh, du, dg);
        } else {
          step(task.w, gt, &before[0], dyt, dh, du, dg);
        }
      }
    });
    dh0.finish();
  }
};

LS_KERNEL(GatedScan).reads("u g y", lies::rows).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
