#pragma once
// The gated scan as code of blocks of threads: a thread walks one channel of one sequence, side by
// side with those of the next channels, and asks for the numbers of kAhead tokens together. Forward
// moves u, g in and y out once, backward g, y, dy in and du, dg out.
#include "core/op/report.h"
#include "core/ops/common/block_rows.h"
#include "core/ops/gated_scan/gated_scan.h"

namespace ls::ops::gated_scan {

inline constexpr int kAhead = 16;

template <class T>
struct Call {
  using A = acc_t<T>;
  Index width = 0;
  common::StretchTable sequences;
  common::Rows<const T> u, y, gy;
  common::Rows<const A> g;
  const A *h0 = nullptr, *ghT = nullptr;
  common::Rows<T> out, du;
  common::Rows<A> dg;
  A* hT = nullptr;
  A* dh0 = nullptr;  ///< [sequences,D]
  LS_ON_DEVICE Index channels() const { return sequences.count * width; }
};

template <class T>
struct Forward {
  using A = acc_t<T>;
  struct Shared {};
  LS_ON_DEVICE static void run(const cuda::Block& block, const Call<T>& call, Shared*) {
    common::each_of(block, call.channels(),
                    [&](Index i) { walk(call, i / call.width, i % call.width); });
  }

 private:
  LS_ON_DEVICE static void walk(const Call<T>& call, Index n, Index c) {
    const common::Stretch s = call.sequences.at[n];
    A h = call.h0 && s.start >= 0 ? call.h0[s.start * call.width + c] : A(0);
    for (Index first = 0; first < s.length; first += kAhead) {
      const Index t = s.token + first, rest = s.length - first;
      A u[kAhead], g[kAhead];
      LS_UNROLL()
      for (int i = 0; i < kAhead; ++i) {
        if (i < rest) {
          u[i] = convert<A>(call.u.at(s.row, t + i, 0)[c]);
          g[i] = call.g.at(s.row, t + i, 0)[c];
        }
      }
      LS_UNROLL()
      for (int i = 0; i < kAhead; ++i) {
        if (i < rest) {
          h = std::exp(g[i]) * h + u[i];
          call.out.at(s.row, t + i, 0)[c] = convert<T>(h);
        }
      }
    }
    if (call.hT && s.end >= 0) {
      call.hT[s.end * call.width + c] = h;
    }
  }
};

template <class T>
struct Backward {
  using A = acc_t<T>;
  struct Shared {};
  LS_ON_DEVICE static void run(const cuda::Block& block, const Call<T>& call, Shared*) {
    common::each_of(block, call.channels(),
                    [&](Index i) { walk(call, i / call.width, i % call.width); });
  }

 private:
  LS_ON_DEVICE static void walk(const Call<T>& call, Index n, Index c) {
    const common::Stretch s = call.sequences.at[n];
    const A first = call.h0 && s.start >= 0 ? call.h0[s.start * call.width + c] : A(0);
    A dh = call.ghT && s.end >= 0 ? call.ghT[s.end * call.width + c] : A(0);
    for (Index left = s.length; left > 0; left -= kAhead) {
      A g[kAhead], before[kAhead], dy[kAhead];
      LS_UNROLL()
      for (int i = 0; i < kAhead; ++i) {
        const Index at = left - 1 - i, t = s.token + at;
        if (at >= 0) {
          g[i] = call.g.at(s.row, t, 0)[c];
          before[i] = at > 0 ? convert<A>(call.y.at(s.row, t - 1, 0)[c]) : first;
          dy[i] = call.gy ? convert<A>(call.gy.at(s.row, t, 0)[c]) : A(0);
        }
      }
      LS_UNROLL()
      for (int i = 0; i < kAhead; ++i) {
        const Index at = left - 1 - i, t = s.token + at;
        if (at >= 0) {
          const A here = dh + dy[i];
          dh = std::exp(g[i]) * here;
          if (call.du) {
            call.du.at(s.row, t, 0)[c] = convert<T>(here);
          }
          if (call.dg) {
            call.dg.at(s.row, t, 0)[c] = dh * before[i];
          }
        }
      }
    }
    if (call.dh0) {
      call.dh0[n * call.width + c] = dh;
    }
  }
};

template <class Machine, class T>
struct Blocks {
  using A = acc_t<T>;
  using Op = GatedScan;

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    report_form<Op>("recurrent");
    Machine machine;
    Call<T> call = call_of(machine, in, in.u);
    call.u = common::rows_in<T>(in.u);
    call.out = common::rows_to<T>(out.y);
    call.hT = common::elements<A>(out.hT);
    launch<Forward<T>>(machine, call);
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    Machine machine;
    Call<T> call = call_of(machine, in, in.g);
    call.y = common::rows_in<T>(out.y);
    call.gy = common::rows_in<T>(dout.y);
    call.ghT = common::elements<A>(dout.hT);
    call.du = common::rows_to<T>(din.u);
    call.dg = common::rows_to<A>(din.g);
    if (din.h0.defined()) {
      common::take(machine, call.channels(), call.dh0);
    }
    launch<Backward<T>>(machine, call);
    if (din.h0.defined()) {
      common::sum_starts(machine, call.sequences, static_cast<const A*>(call.dh0), din.h0.size(0),
                         call.width, din.h0.template data<A>());
    }
  }

 private:
  static Call<T> call_of(Machine& machine, const Op::In<TensorView>& in, const TensorView& like) {
    Call<T> call;
    call.width = like.size(2);
    call.sequences = common::StretchTable("gated_scan", like.size(0), like.size(1), in.offsets,
                                          in.h0.defined() ? in.h0.size(0) : 0);
    common::make_stretches(machine, call.sequences);
    call.g = common::rows_in<A>(in.g);
    call.h0 = common::elements<A>(in.h0);
    return call;
  }
  template <class Code>
  static void launch(Machine& machine, const Call<T>& call) {
    machine.template launch<Code>({common::blocks_of(call.channels(), common::kThreads), 1, 1},
                                  call);
  }
};

}  // namespace ls::ops::gated_scan
