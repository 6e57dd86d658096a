// y_t = x_{t-1} - x_t, dx_t = dy_{t+1} - dy_t, with the states at the ends of sequences. The B*T
// tokens [B*T,D] are shared out over threads; each reads its neighbour and owns its outputs. Two
// rows are read and one is written a token, most of them from cache the second time.
#include "core/ops/token_shift/token_shift.h"

#include <vector>

#include "core/op/declare.h"
#include "core/op/report.h"
#include "core/ops/common/sequences.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

using Op = TokenShift;
constexpr Index kGrain = 64;  // tokens of one thread at least

/// Rows of tokens, and where their sequences begin and end among them.
struct Call {
  explicit Call(const Op::In<TensorView>& in)
      : d(in.x.size(2)),
        count(in.x.size(0) * in.x.size(1)),
        seqs(common::sequences(in.x.size(0), in.x.size(1), in.offsets, "token_shift")),
        owner(count) {
    for (const common::Sequence& s : seqs) {
      const Index first = s.row * in.x.size(1) + s.begin;
      std::fill_n(owner.begin() + first, s.length, std::ssize(begin));
      begin.push_back(first);
      end.push_back(first + s.length);
    }
  }
  Index d, count;
  std::vector<common::Sequence> seqs;
  std::vector<Index> owner;       ///< the sequence of each token
  std::vector<Index> begin, end;  ///< of each sequence
};

/// to = a - b; an absent row is zero.
template <class T, class A, class B>
void subtract(Index d, const A* __restrict a, const B* __restrict b, T* __restrict to) {
  using Acc = acc_t<T>;
  for (Index c = 0; c < d; ++c) {
    to[c] = convert<T>((a ? convert<Acc>(a[c]) : Acc(0)) - (b ? convert<Acc>(b[c]) : Acc(0)));
  }
}
template <class T>
void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
  report_form<Op>("recurrent");
  using A = acc_t<T>;
  const Call call(in);
  const Index d = call.d;
  const common::FirstStates<A> s0(in.s0, 1, d, call.seqs);
  const common::LastStates<A> sT(out.sT, 1, d, call.seqs);
  const Rows x(in.x);
  T* const y = out.y.data<T>();
  parallel_for(call.count, kGrain, [&](Index first, Index last) {
    for (Index t = first; t < last; ++t) {
      const Index n = call.owner[t];
      if (t > call.begin[n]) {
        subtract(d, x.row<T>(t - 1), x.row<T>(t), y + t * d);
      } else {
        subtract(d, s0.at(n), x.row<T>(t), y + t * d);
      }
    }
  });
  for (Index n = 0; n < std::ssize(call.begin); ++n) {
    A* const to = sT.at(n);
    if (to && call.end[n] > call.begin[n]) {
      subtract<A, T, T>(d, x.row<T>(call.end[n] - 1), nullptr, to);
    } else if (to) {
      s0.copy(n, 1, to);
    }
  }
}

template <class T>
void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
              const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
  using A = acc_t<T>;
  const Call call(in);
  const Index d = call.d;
  const common::LastGradients<A> dsT(dout.sT, 1, d, call.seqs);
  const bool has_dy = dout.y.defined();
  const Rows rows(has_dy ? dout.y : in.x);
  const auto dy = [&](Index t) { return has_dy ? rows.row<T>(t) : nullptr; };
  if (din.x.defined()) {
    T* const dx = din.x.data<T>();
    parallel_for(call.count, kGrain, [&](Index first, Index last) {
      for (Index t = first; t < last; ++t) {
        const Index n = call.owner[t];
        if (t + 1 < call.end[n]) {
          subtract(d, dy(t + 1), dy(t), dx + t * d);
        } else {
          subtract(d, dsT.at(n), dy(t), dx + t * d);
        }
      }
    });
  }
  const common::FirstGradients<A> ds0(din.s0, 1, d, call.seqs);
  for (Index n = 0; n < std::ssize(call.begin); ++n) {
    A* const to = ds0.at(n);
    if (to && call.end[n] > call.begin[n]) {
      subtract<A, T, T>(d, dy(call.begin[n]), nullptr, to);
    } else if (to) {
      dsT.copy(n, 1, to);
    }
  }
  ds0.finish();
}

LS_KERNEL(TokenShift).reads("x y", lies::rows).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
