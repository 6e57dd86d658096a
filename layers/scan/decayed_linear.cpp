// Summary of a stretch: the logs of its decay by row [B,H,Dk] (or [B,H,1], where all key channels
// share theirs), X [B,H,Dk,Dv], and with decays of value channels that by column [B,H,Dv];
//   S' = diag(exp(rows)) S diag(exp(columns)) + X.
#include "core/ops/decayed_linear/decayed_linear.h"

#include <cmath>

#include "core/tensor/dispatch.h"
#include "core/tensor/view.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

using Op = ops::DecayedLinear;

/// Sums of log-decays over the tokens: per channel of `channels` [B,T,H,D] where it is defined,
/// else [B,H,1]; `head` [B,T,H] and `constant` [H] count for every channel.
Tensor log_decay(const Op::In<Tensor>& in, const Tensor& channels, const Tensor& head,
                 const Tensor& constant) {
  const Index b = in.v.size(0), tokens = in.v.size(1), heads = in.v.size(2);
  const Index width = channels.defined() ? channels.size(3) : 1;
  const DType type = acc_dtype(in.v.dtype());
  Tensor out = Tensor::empty({b, heads, width}, type);
  dispatch_float(type, [&]<class A>() {
    View<A, 3> total(out);
    const View<const A, 3> of_head(head);
    const View<const A, 4> of_channel(channels);
    for (Index i = 0; i < b; ++i) {
      for (Index h = 0; h < heads; ++h) {
        for (Index x = 0; x < width; ++x) {
          double sum = constant.defined() ? static_cast<double>(tokens) * constant.slow_at(h) : 0.0;
          for (Index t = 0; t < tokens; ++t) {
            sum += of_head ? convert<double>(of_head(i, t, h)) : 0.0;
            sum += of_channel ? convert<double>(of_channel(i, t, h, x)) : 0.0;
          }
          total(i, h, x) = convert<A>(sum);
        }
      }
    }
  });
  return out;
}

/// One factor for each channel, or one for all.
template <class A>
double factor(const View<const A, 3>& log, Index b, Index h, Index x) {
  return log ? std::exp(convert<double>(log(b, h, log.size(2) > 1 ? x : 0))) : 1.0;
}

/// diag(exp(rows)) x diag(exp(columns)) + y of the decays in `summary`; y may be absent.
Tensor decayed(const Tensors& summary, const Tensor& x, const Tensor& y) {
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  dispatch_float(x.dtype(), [&]<class A>() {
    View<A, 4> to(out);
    const View<const A, 3> rows(summary[0]), columns(summary.size() > 2 ? summary[2] : Tensor());
    const View<const A, 4> from(x), plus(y);
    for (Index b = 0; b < x.size(0); ++b) {
      for (Index h = 0; h < x.size(1); ++h) {
        for (Index i = 0; i < x.size(2); ++i) {
          const double row = factor(rows, b, h, i);
          for (Index j = 0; j < x.size(3); ++j) {
            const double f = row * factor(columns, b, h, j);
            to(b, h, i, j) = convert<A>(f * convert<double>(from(b, h, i, j)) +
                                        (plus ? convert<double>(plus(b, h, i, j)) : 0.0));
          }
        }
      }
    }
  });
  return out;
}

Tensor sum(const Tensor& a, const Tensor& b) {
  Tensor out = a.clone();
  out.add_(b);
  return out;
}

struct Decayed {
  static Tensors summarize(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
    Tensors out = {log_decay(in, in.gk, in.g, in.decay), call_op<Op>(in, attrs).sT};
    if (in.gv.defined()) {
      out.push_back(log_decay(in, in.gv, Tensor(), Tensor()));
    }
    return out;
  }
  static Tensors identity(const Op::In<Tensor>& like, const Op::Attrs&) {
    const DType t = acc_dtype(like.v.dtype());
    const Index b = like.v.size(0), h = like.v.size(2), dk = like.k.size(3), dv = like.v.size(3);
    Tensors out = {Tensor::zeros({b, h, like.gk.defined() ? dk : 1}, t),
                   Tensor::zeros({b, h, dk, dv}, t)};
    if (like.gv.defined()) {
      out.push_back(Tensor::zeros({b, h, dv}, t));
    }
    return out;
  }
  static Tensors compose(const Tensors& a, const Tensors& b) {
    Tensors out = {sum(a[0], b[0]), decayed(b, a[1], b[1])};
    if (b.size() > 2) {
      out.push_back(sum(a[2], b[2]));
    }
    return out;
  }
  static Tensors act(const Tensors& m, const Tensors& s) { return {decayed(m, s[0], m[1])}; }
  static Tensors act_adjoint(const Tensors& m, const Tensors& ds) {
    return {decayed(m, ds[0], Tensor())};
  }
  static Tensors forget(const Op::In<Tensor>& like, const Tensors& fresh, const Op::Attrs& attrs) {
    Tensors m = identity(like, attrs);
    m[0].fill_(-INFINITY);
    m[1] = fresh_state(fresh[0], m[1].shape(), m[1].dtype());
    return m;
  }
};

LS_SCAN(Op, "decayed_linear",
        "S = diag(exp(g + gk)) S diag(exp(gv)) + k v^T; no, constant or any of these decays")
    .family("decayed_linear", FamilyKind::kFixed)
    .state("S", "s0", "sT", StatePart::kMatrix)
    .chunked()
    .parallel()
    .summary<Decayed>();

}  // namespace
}  // namespace ls::layers
