// Summary of a stretch: (number of tokens, at most W-1; the last W-1 inputs, newest at the end,
// zeros before the first). The state is those inputs; a token shift keeps one, without the axis.
#include "core/ops/short_conv/short_conv.h"
#include "core/ops/token_shift/token_shift.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

Tensor count(Index n) {
  return Tensor::from(std::vector<std::int64_t>{n});
}

Index counted(const Tensors& summary) {
  return static_cast<Index>(summary[0].item());
}

// `older` moves out by n places, the last n of `newer` come in.
Tensor shifted(const Tensor& older, const Tensor& newer, Index n) {
  const Index w = older.size(2);
  Tensor out = Tensor::empty(older.shape(), older.dtype());
  out.slice(2, 0, w - n).copy_(older.slice(2, n, w));
  out.slice(2, w - n, w).copy_(newer.slice(2, w - n, w));
  return out;
}

// What moved out by n places goes back; what moved beyond the end has no gradient.
Tensor shifted_back(const Tensor& ds, Index n) {
  Tensor out = Tensor::zeros(ds.shape(), ds.dtype());
  const Index w = out.size(2);
  out.slice(2, n, w).copy_(ds.slice(2, 0, w - n));
  return out;
}

struct Window {
  static Tensors compose(const Tensors& a, const Tensors& b) {
    const Index n = counted(b);
    return {count(std::min(counted(a) + n, b[1].size(2))), shifted(a[1], b[1], n)};
  }
};

struct Taps : Window {
  using Op = ops::ShortConv;
  static Tensors summarize(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
    const Tensor tail = call_op<Op>(in, attrs).sT;
    return {count(std::min(in.x.size(1), tail.size(2))), tail};
  }
  static Tensors identity(const Op::In<Tensor>& like, const Op::Attrs&) {
    const Shape tail{like.x.size(0), like.weight.size(0), like.weight.size(1) - 1};
    return {count(0), Tensor::zeros(tail, acc_dtype(like.x.dtype()))};
  }
  static Tensors act(const Tensors& m, const Tensors& s) {
    return {shifted(s[0], m[1], counted(m))};
  }
  static Tensors act_adjoint(const Tensors& m, const Tensors& ds) {
    return {shifted_back(ds[0], counted(m))};
  }
};

LS_SCAN(ops::ShortConv, "short_conv", "the last W-1 inputs of a depthwise convolution")
    .family("window", FamilyKind::kFixed)
    .state("x", "s0", "sT", StatePart::kConv)
    .summary<Taps>();

/// A window of one token.
struct Last : Window {
  using Op = ops::TokenShift;
  static Tensors summarize(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
    const Tensor tail = call_op<Op>(in, attrs).sT;
    return {count(std::min<Index>(in.x.size(1), 1)), tail.unsqueeze(2)};
  }
  static Tensors identity(const Op::In<Tensor>& like, const Op::Attrs&) {
    const Shape tail{like.x.size(0), like.x.size(2), 1};
    return {count(0), Tensor::zeros(tail, acc_dtype(like.x.dtype()))};
  }
  static Tensors act(const Tensors& m, const Tensors& s) {
    return {shifted(s[0].unsqueeze(2), m[1], counted(m)).squeeze(2)};
  }
  static Tensors act_adjoint(const Tensors& m, const Tensors& ds) {
    return {shifted_back(ds[0].unsqueeze(2), counted(m)).squeeze(2)};
  }
};

LS_SCAN(ops::TokenShift, "token_shift", "the last token, for mixing neighbours")
    .family("window", FamilyKind::kFixed)
    .state("x", "s0", "sT", StatePart::kConv)
    .summary<Last>();

}  // namespace
}  // namespace ls::layers
