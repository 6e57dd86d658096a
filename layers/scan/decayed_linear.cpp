// Summary of a stretch: (sum of log-decays [B,H], X [B,H,Dk,Dv]); S' = exp(sum) S + X.
#include "core/ops/decayed_linear/decayed_linear.h"

#include <cmath>

#include "core/tensor/dispatch.h"
#include "core/tensor/view.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

using Op = ops::DecayedLinear;

/// The sum of log-decays over the tokens, [B,H].
Tensor log_decay(const Op::In<Tensor>& in) {
  const Index b = in.k.size(0), tokens = in.k.size(1), heads = in.k.size(2);
  const DType type = acc_dtype(in.k.dtype());
  Tensor out = Tensor::empty({b, heads}, type);
  dispatch_float(type, [&]<class A>() {
    View<A, 2> total(out);
    const View<const A, 3> g(in.g);
    for (Index i = 0; i < b; ++i) {
      for (Index h = 0; h < heads; ++h) {
        double sum = in.decay.defined() ? static_cast<double>(tokens) * in.decay.slow_at(h) : 0.0;
        for (Index t = 0; g && t < tokens; ++t) {
          sum += convert<double>(g(i, t, h));
        }
        total(i, h) = convert<A>(sum);
      }
    }
  });
  return out;
}

/// exp(sum) x + y, head by head; y may be absent.
Tensor decayed(const Tensor& sum, const Tensor& x, const Tensor& y) {
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  dispatch_float(x.dtype(), [&]<class A>() {
    View<A, 4> to(out);
    const View<const A, 2> log(sum);
    const View<const A, 4> from(x), plus(y);
    for (Index b = 0; b < x.size(0); ++b) {
      for (Index h = 0; h < x.size(1); ++h) {
        const double f = std::exp(convert<double>(log(b, h)));
        for (Index i = 0; i < x.size(2); ++i) {
          for (Index j = 0; j < x.size(3); ++j) {
            to(b, h, i, j) = convert<A>(f * convert<double>(from(b, h, i, j)) +
                                        (plus ? convert<double>(plus(b, h, i, j)) : 0.0));
          }
        }
      }
    }
  });
  return out;
}

struct Decayed {
  static Tensors summarize(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
    return {log_decay(in), call_op<Op>(in, attrs).sT};
  }
  static Tensors identity(const Op::In<Tensor>& like, const Op::Attrs&) {
    const DType t = acc_dtype(like.k.dtype());
    const Index b = like.k.size(0), h = like.k.size(2);
    return {Tensor::zeros({b, h}, t), Tensor::zeros({b, h, like.k.size(3), like.v.size(3)}, t)};
  }
  static Tensors compose(const Tensors& a, const Tensors& b) {
    Tensor sum = a[0].clone();
    sum.add_(b[0]);
    return {sum, decayed(b[0], a[1], b[1])};
  }
  static Tensors act(const Tensors& m, const Tensors& s) { return {decayed(m[0], s[0], m[1])}; }
  static Tensors act_adjoint(const Tensors& m, const Tensors& ds) {
    return {decayed(m[0], ds[0], Tensor())};
  }
};

LS_SCAN(Op, "decayed_linear", "S = exp(g) S + k v^T with no, constant or scalar decay")
    .family("decayed_linear", FamilyKind::kFixed)
    .state("S", "s0", "sT", StatePart::kMatrix)
    .chunked()
    .parallel()
    .summary<Decayed>();

}  // namespace
}  // namespace ls::layers
