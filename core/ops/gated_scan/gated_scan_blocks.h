#pragma once
// The gated scan as code of blocks of threads: a thread walks one channel of one sequence, side by
// side with those of the next channels, and asks for the numbers of kAhead tokens together while it
// works on those before. Forward moves u, g in and y out once, backward g, y, dy in and du, dg out.
#include "core/op/report.h"
#include "core/ops/common/block_rows.h"
#include "core/ops/gated_scan/gated_scan.h"

namespace ls::ops::gated_scan {

inline constexpr int kAhead = 8;

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
  struct Batch {
    A u[kAhead], g[kAhead];
  };
  LS_ON_DEVICE static void walk(const Call<T>& call, Index n, Index c) {
    const common::Stretch s = call.sequences.at[n];
    A h = call.h0 && s.start >= 0 ? call.h0[s.start * call.width + c] : A(0);
    if (s.length > 0) {
      const T* const u = call.u.at(s.row, s.token, 0) + c;
      const A* const g = call.g.at(s.row, s.token, 0) + c;
      T* const y = call.out.at(s.row, s.token, 0) + c;
      const auto load = [&](Index first, Batch& to) {  // the last token again behind the end
        LS_UNROLL()
        for (int i = 0; i < kAhead; ++i) {
          const Index t = first + i < s.length ? first + i : s.length - 1;
          to.u[i] = convert<A>(u[t * call.u.t]);
          to.g[i] = g[t * call.g.t];
        }
      };
      Batch next;
      load(0, next);
      for (Index first = 0; first < s.length; first += kAhead) {
        const Batch now = next;
        load(first + kAhead, next);
        LS_UNROLL()
        for (int i = 0; i < kAhead; ++i) {
          if (first + i < s.length) {
            h = std::exp(now.g[i]) * h + now.u[i];
            y[(first + i) * call.out.t] = convert<T>(h);
          }
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
  struct Batch {
    A g[kAhead], before[kAhead], dy[kAhead];
  };
  LS_ON_DEVICE static void walk(const Call<T>& call, Index n, Index c) {
    const common::Stretch s = call.sequences.at[n];
    A dh = call.ghT && s.end >= 0 ? call.ghT[s.end * call.width + c] : A(0);
    if (s.length > 0) {
      const A h0 = call.h0 && s.start >= 0 ? call.h0[s.start * call.width + c] : A(0);
      const A* const g = call.g.at(s.row, s.token, 0) + c;
      const T* const y = call.y.at(s.row, s.token, 0) + c;
      const T* const gy = call.gy ? call.gy.at(s.row, s.token, 0) + c : nullptr;
      T* const du = call.du ? call.du.at(s.row, s.token, 0) + c : nullptr;
      A* const dg = call.dg ? call.dg.at(s.row, s.token, 0) + c : nullptr;
      // Token last - i and those before it; the first one again in front of the beginning.
      const auto load = [&](Index last, Batch& to) {
        LS_UNROLL()
        for (int i = 0; i < kAhead; ++i) {
          const Index t = last - i > 0 ? last - i : 0;
          to.g[i] = g[t * call.g.t];
          to.before[i] = t > 0 ? convert<A>(y[(t - 1) * call.y.t]) : h0;
          to.dy[i] = gy ? convert<A>(gy[t * call.gy.t]) : A(0);
        }
      };
      Batch next;
      load(s.length - 1, next);
      for (Index last = s.length - 1; last >= 0; last -= kAhead) {
        const Batch now = next;
        load(last - kAhead, next);
        LS_UNROLL()
        for (int i = 0; i < kAhead; ++i) {
          const Index t = last - i;
          if (t >= 0) {
            const A here = dh + now.dy[i];
            dh = std::exp(now.g[i]) * here;
            if (du) {
              du[t * call.du.t] = convert<T>(here);
            }
            if (dg) {
              dg[t * call.dg.t] = dh * now.before[i];
            }
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
