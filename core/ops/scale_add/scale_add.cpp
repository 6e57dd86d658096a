#include "core/ops/scale_add/scale_add.h"

#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = ScaleAdd;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs&, Bindings&) {
  LS_CHECK(in.factor.defined() || in.gain.defined(), kShape,
           "scale_add: give factor, gain or both");
  for (const auto& [t, name] : {std::pair(in.factor, "factor"), std::pair(in.gain, "gain")}) {
    LS_CHECK(!t.defined() || (t.size(-1) > 0 && in.x.size(-1) % t.size(-1) == 0), kShape,
             "scale_add: {} channels of x are not a multiple of {} of {}", in.x.size(-1),
             t.defined() ? t.size(-1) : 0, name);
  }
}

template <class Real>
struct Reference {
  struct Call {
    explicit Call(const Op::In<TensorView>& in)
        : x(in.x), factor(in.factor), base(in.base), gain(in.gain) {}
    Index group(Index c) const { return c / (x.size(1) / factor.size(1)); }
    Index constant(Index c) const { return c / (x.size(1) / gain.size(0)); }
    Real of(Index r, Index c) const {
      return (factor ? factor(r, group(c)) : Real(0)) + (gain ? gain(constant(c)) : Real(0));
    }
    common::Joined<const Real, 2> x, factor, base;
    View<const Real, 1> gain;
  };
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const Call call(in);
    const common::Joined<Real, 2> y(out.y);
    for (Index r = 0; r < y.size(0); ++r) {
      for (Index c = 0; c < y.size(1); ++c) {
        y(r, c) = common::or_zero(call.base, r, c) + call.x(r, c) * call.of(r, c);
      }
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const Call call(in);
    const common::Joined<const Real, 2> gy(dout.y);
    auto d = common::zero_gradients(in, din);
    const common::Joined<Real, 2> gx(d.x), gfactor(d.factor), gbase(d.base);
    const View<Real, 1> ggain(d.gain);
    for (Index r = 0; r < gy.size(0); ++r) {
      for (Index c = 0; c < gy.size(1); ++c) {
        gx(r, c) = gy(r, c) * call.of(r, c);
        if (gfactor) {
          gfactor(r, call.group(c)) += gy(r, c) * call.x(r, c);
        }
        if (ggain) {
          ggain(call.constant(c)) += gy(r, c) * call.x(r, c);
        }
        if (gbase) {
          gbase(r, c) = gy(r, c);
        }
      }
    }
  }
};

LS_OP(ScaleAdd, "scale_add", "base + x (factor + gain), factors for groups of channels")
    .in("x[...,D] factor[...,G]:acc? gain[E]:acc? base[...,D]?")
    .out("y[...,D]")
    .saves("x factor gain")
    .bind(bind)
    .reference<Reference>()
    .cost(3, 3);

}  // namespace
}  // namespace ls::ops
