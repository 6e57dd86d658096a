// Summary of a stretch: (number of tokens [B], at most W-1; the last W-1 inputs, newest at the end,
// zeros before the first). The state is those inputs; a token shift keeps one, without the axis.
#include "core/ops/short_conv/short_conv.h"
#include "core/ops/token_shift/token_shift.h"
#include "core/tensor/view.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

Tensor counts(Index rows, Index n) {
  return Tensor::from(std::vector<Index>(static_cast<std::size_t>(rows), n));
}

// Row by row: `older` moves out by its count, as many of the last of `newer` come in.
Tensor shifted(const Tensor& older, const Tensor& newer, const Tensor& by) {
  const Index w = older.size(2);
  Tensor out = Tensor::empty(older.shape(), older.dtype());
  const View<const Index, 1> count(by);
  for (Index b = 0; b < older.size(0); ++b) {
    const Index n = count(b);
    Tensor row = out.select(0, b);
    row.slice(1, 0, w - n).copy_(older.select(0, b).slice(1, n, w));
    row.slice(1, w - n, w).copy_(newer.select(0, b).slice(1, w - n, w));
  }
  return out;
}

// What moved out goes back; what moved beyond the end has no gradient.
Tensor shifted_back(const Tensor& ds, const Tensor& by) {
  Tensor out = Tensor::zeros(ds.shape(), ds.dtype());
  const Index w = out.size(2);
  const View<const Index, 1> count(by);
  for (Index b = 0; b < ds.size(0); ++b) {
    const Index n = count(b);
    out.select(0, b).slice(1, n, w).copy_(ds.select(0, b).slice(1, 0, w - n));
  }
  return out;
}

struct Window {
  static Tensors compose(const Tensors& a, const Tensors& b) {
    const Index rows = a[0].size(0), most = b[1].size(2);
    Tensor sum = counts(rows, 0);
    View<Index, 1> count(sum);
    const View<const Index, 1> x(a[0]), y(b[0]);
    for (Index r = 0; r < rows; ++r) {
      count(r) = std::min(x(r) + y(r), most);
    }
    return {sum, shifted(a[1], b[1], b[0])};
  }
};

struct Taps : Window {
  using Op = ops::ShortConv;
  static Tensors summarize(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
    const Tensor tail = call_op<Op>(in, attrs).sT;
    return {counts(in.x.size(0), std::min(in.x.size(1), tail.size(2))), tail};
  }
  static Tensors identity(const Op::In<Tensor>& like, const Op::Attrs&) {
    const Shape tail{like.x.size(0), like.weight.size(0), like.weight.size(1) - 1};
    return {counts(tail[0], 0), Tensor::zeros(tail, acc_dtype(like.x.dtype()))};
  }
  static Tensors act(const Tensors& m, const Tensors& s) { return {shifted(s[0], m[1], m[0])}; }
  static Tensors act_adjoint(const Tensors& m, const Tensors& ds) {
    return {shifted_back(ds[0], m[0])};
  }
  static Tensors forget(const Op::In<Tensor>& like, const Tensors& fresh, const Op::Attrs& attrs) {
    const Tensor tail = identity(like, attrs)[1];
    return {counts(tail.size(0), tail.size(2)), fresh_state(fresh[0], tail.shape(), tail.dtype())};
  }
};

LS_SCAN(ops::ShortConv, "short_conv", "the last W-1 inputs of a depthwise convolution")
    .family("window", FamilyKind::kFixed)
    .state("x", "s0", "sT", StatePart::kConv)
    .reach([](const Taps::Op::In<Tensor>& in, const Taps::Op::Attrs&) -> Index {
      return in.weight.size(1) - 1;
    })
    .summary<Taps>();

/// A window of one token.
struct Last : Window {
  using Op = ops::TokenShift;
  static Tensors summarize(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
    const Tensor tail = call_op<Op>(in, attrs).sT;
    return {counts(in.x.size(0), std::min<Index>(in.x.size(1), 1)), tail.unsqueeze(2)};
  }
  static Tensors identity(const Op::In<Tensor>& like, const Op::Attrs&) {
    const Shape tail{like.x.size(0), like.x.size(2), 1};
    return {counts(tail[0], 0), Tensor::zeros(tail, acc_dtype(like.x.dtype()))};
  }
  static Tensors act(const Tensors& m, const Tensors& s) {
    return {shifted(s[0].unsqueeze(2), m[1], m[0]).squeeze(2)};
  }
  static Tensors act_adjoint(const Tensors& m, const Tensors& ds) {
    return {shifted_back(ds[0].unsqueeze(2), m[0]).squeeze(2)};
  }
  static Tensors forget(const Op::In<Tensor>& like, const Tensors& fresh, const Op::Attrs& attrs) {
    const Tensor tail = identity(like, attrs)[1];
    const Tensor last = fresh[0].defined() ? fresh[0].unsqueeze(2) : Tensor();
    return {counts(tail.size(0), 1), fresh_state(last, tail.shape(), tail.dtype())};
  }
};

LS_SCAN(ops::TokenShift, "token_shift", "the last token, for mixing neighbours")
    .family("window", FamilyKind::kFixed)
    .state("x", "s0", "sT", StatePart::kConv)
    .reach([](const Last::Op::In<Tensor>&, const Last::Op::Attrs&) -> Index { return 1; })
    .summary<Last>();

}  // namespace
}  // namespace ls::layers
