#include "core/ops/token_shift/token_shift.h"

#include "core/ops/common/sequences.h"

namespace ls::ops {
namespace {

using Op = TokenShift;

void bind(const Op::In<Tensor>& in, const Op::Attrs&, Bindings& b) {
  const Index n = common::sequence_count(in.x.size(0), in.offsets);
  LS_CHECK(!in.s0.defined() || in.s0.size(0) == n, kShape,
           "token_shift: s0 has {} rows for {} sequences", in.s0.defined() ? in.s0.size(0) : 0, n);
  if (!b.has("N")) {
    b.set("N", n);
  }
}

template <class Real>
struct Reference {
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs&) {
    const Index d = in.x.size(2);
    const auto seqs = common::sequences(in.x.size(0), in.x.size(1), in.offsets, "token_shift");
    for (std::size_t n = 0; n < seqs.size(); ++n) {
      for (Index c = 0; c < d; ++c) {
        const Index s = static_cast<Index>(n) * d + c;
        Real previous = in.s0.defined() ? static_cast<Real>(in.s0.at(s)) : Real(0);
        for (Index i = 0; i < seqs[n].length; ++i) {
          const Index at = (seqs[n].row * in.x.size(1) + seqs[n].begin + i) * d + c;
          const Real x = static_cast<Real>(in.x.at(at));
          out.y.data<Real>()[at] = previous - x;
          previous = x;
        }
        out.sT.data<Real>()[s] = previous;
      }
    }
  }
  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs&) {
    const Index d = in.x.size(2);
    const auto seqs = common::sequences(in.x.size(0), in.x.size(1), in.offsets, "token_shift");
    for (std::size_t n = 0; n < seqs.size(); ++n) {
      for (Index c = 0; c < d; ++c) {
        const Index s = static_cast<Index>(n) * d + c;
        Real dprevious = dout.sT.defined() ? static_cast<Real>(dout.sT.at(s)) : Real(0);
        for (Index i = seqs[n].length - 1; i >= 0; --i) {
          const Index at = (seqs[n].row * in.x.size(1) + seqs[n].begin + i) * d + c;
          const Real dy = dout.y.defined() ? static_cast<Real>(dout.y.at(at)) : Real(0);
          if (din.x.defined()) {
            din.x.data<Real>()[at] = dprevious - dy;
          }
          dprevious = dy;
        }
        if (din.s0.defined()) {
          din.s0.data<Real>()[s] = dprevious;
        }
      }
    }
  }
};

Cost cost(const Op::In<Tensor>& in, const Op::Attrs&) {
  return {.bytes = 2.0 * static_cast<double>(in.x.bytes()),
          .flops = static_cast<double>(in.x.numel())};
}

LS_OP(TokenShift, "token_shift", "difference to the previous token")
    .in("x[B,T,D] s0[N,D]:acc? offsets[N1]:i64?")
    .out("y[B,T,D] sT[N,D]:acc")
    .saves("x offsets")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
