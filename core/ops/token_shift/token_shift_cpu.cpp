// Each token reads its neighbour; tokens are shared out over threads, one owner for each output.
#include "core/ops/token_shift/token_shift.h"

#include <vector>

#include "core/op/report.h"
#include "core/ops/common/sequences.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

using Op = TokenShift;
constexpr Index kGrain = 64;  // tokens of one thread at least

/// The sequence of each of the B*T tokens.
std::vector<Index> owners(const std::vector<common::Sequence>& seqs, Index tokens, Index count) {
  std::vector<Index> out(static_cast<std::size_t>(count));
  for (std::size_t n = 0; n < seqs.size(); ++n) {
    const Index first = seqs[n].row * tokens + seqs[n].begin;
    std::fill_n(out.begin() + first, seqs[n].length, static_cast<Index>(n));
  }
  return out;
}

template <class T>
void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs&) {
  report_form<Op>("recurrent");
  using A = acc_t<T>;
  const Index tokens = in.x.size(1), d = in.x.size(2), count = in.x.size(0) * tokens;
  const auto seqs = common::sequences(in.x.size(0), tokens, in.offsets, "token_shift");
  const std::vector<Index> owner = owners(seqs, tokens, count);
  const Tensor s0 = in.s0.defined() ? in.s0.contiguous() : Tensor();
  const Rows x(in.x);
  T* y = out.y.data<T>();
  A* sT = out.sT.data<A>();
  const auto first_of = [&](Index n) {
    const common::Sequence& s = seqs[static_cast<std::size_t>(n)];
    return s.row * tokens + s.begin;
  };
  const A* before = s0.defined() ? s0.data<A>() : nullptr;
  parallel_for(count, kGrain, [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t) {
      const Index n = owner[static_cast<std::size_t>(t)];
      const T* __restrict now = x.row<T>(t);
      T* __restrict to = y + t * d;
      if (t > first_of(n)) {
        const T* __restrict last = x.row<T>(t - 1);
        for (Index c = 0; c < d; ++c) {
          to[c] = convert<T>(convert<A>(last[c]) - convert<A>(now[c]));
        }
      } else {
        for (Index c = 0; c < d; ++c) {
          to[c] = convert<T>((before ? before[n * d + c] : A(0)) - convert<A>(now[c]));
        }
      }
    }
  });
  for (std::size_t i = 0; i < seqs.size(); ++i) {
    const auto n = static_cast<Index>(i);
    const Index end = first_of(n) + seqs[i].length;
    for (Index c = 0; c < d; ++c) {
      sT[n * d + c] = seqs[i].length > 0 ? convert<A>(x.row<T>(end - 1)[c])
                      : before           ? before[n * d + c]
                                         : A(0);
    }
  }
}

template <class T>
void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&, const Op::Out<Tensor>& dout,
              Op::In<Tensor>& din, const Op::Attrs&) {
  using A = acc_t<T>;
  const Index tokens = in.x.size(1), d = in.x.size(2), count = in.x.size(0) * tokens;
  const auto seqs = common::sequences(in.x.size(0), tokens, in.offsets, "token_shift");
  const std::vector<Index> owner = owners(seqs, tokens, count);
  const bool has_dy = dout.y.defined();
  const Rows dy(has_dy ? dout.y : in.x);
  const Tensor dsT_tensor = dout.sT.defined() ? dout.sT.contiguous() : Tensor();
  const A* dsT = dsT_tensor.defined() ? dsT_tensor.data<A>() : nullptr;
  if (din.x.defined()) {
    T* dx = din.x.data<T>();
    parallel_for(count, kGrain, [&](Index begin, Index end) {
      for (Index t = begin; t < end; ++t) {
        const Index n = owner[static_cast<std::size_t>(t)];
        const bool last = t + 1 == count || owner[static_cast<std::size_t>(t + 1)] != n;
        T* __restrict to = dx + t * d;
        for (Index c = 0; c < d; ++c) {
          const A next = !last ? (has_dy ? convert<A>(dy.row<T>(t + 1)[c]) : A(0))
                         : dsT ? dsT[n * d + c]
                               : A(0);
          to[c] = convert<T>(next - (has_dy ? convert<A>(dy.row<T>(t)[c]) : A(0)));
        }
      }
    });
  }
  if (din.s0.defined()) {
    A* ds0 = din.s0.data<A>();
    for (std::size_t i = 0; i < seqs.size(); ++i) {
      const auto n = static_cast<Index>(i);
      const Index first = seqs[i].row * tokens + seqs[i].begin;
      for (Index c = 0; c < d; ++c) {
        ds0[n * d + c] = seqs[i].length > 0 ? (has_dy ? convert<A>(dy.row<T>(first)[c]) : A(0))
                         : dsT              ? dsT[n * d + c]
                                            : A(0);
      }
    }
  }
}

LS_KERNEL(TokenShift).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
