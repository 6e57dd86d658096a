#include "core/ops/glu/glu.h"

#include "core/ops/common/activations.h"

namespace ls::ops {
namespace {

void bind(const Glu::In<Tensor>& in, const Glu::Attrs&, Bindings& b) {
  LS_CHECK(in.x.defined() != (in.gate.defined() && in.up.defined()), kShape,
           "glu: give either x with both halves, or gate and up");
  if (in.x.defined()) {
    LS_CHECK(in.x.size(-1) % 2 == 0, kShape, "glu: x has {} channels, an even number was expected",
             in.x.size(-1));
    b.set("F", in.x.size(-1) / 2);
  }
}

template <class Real>
struct Reference {
  /// f(act, gate element, up element, row * F + c), the elements counted in x or in gate and up.
  template <class F>
  static void each(const Glu::In<Tensor>& in, const Glu::Attrs& a, F&& f) {
    const Index n = in.x.defined() ? in.x.size(-1) / 2 : in.gate.size(-1);
    const Index count = in.x.defined() ? in.x.numel() / 2 : in.gate.numel();
    act::dispatch(a.activation, [&]<class Act>() {
      for (Index i = 0; i < count; ++i) {
        const Index gate = in.x.defined() ? i / n * 2 * n + i % n : i;
        f(Act(), gate, in.x.defined() ? gate + n : i, i);
      }
    });
  }
  struct Halves {
    Tensor gate, up;
    explicit Halves(const Glu::In<Tensor>& in)
        : gate((in.x.defined() ? in.x : in.gate).contiguous()),
          up((in.x.defined() ? in.x : in.up).contiguous()) {}
  };
  static void forward(const Glu::In<Tensor>& in, Glu::Out<Tensor>& out, const Glu::Attrs& a) {
    const Halves h(in);
    each(in, a, [&]<class Act>(Act, Index gate, Index up, Index i) {
      out.y.template data<Real>()[i] =
          Act::f(h.gate.template data<Real>()[gate]) * h.up.template data<Real>()[up];
    });
  }
  static void backward(const Glu::In<Tensor>& in, const Glu::Out<Tensor>&,
                       const Glu::Out<Tensor>& dout, Glu::In<Tensor>& din, const Glu::Attrs& a) {
    const Halves h(in);
    const Tensor dy = dout.y.contiguous();
    Tensor& dgate = in.x.defined() ? din.x : din.gate;
    Tensor& dup = in.x.defined() ? din.x : din.up;
    each(in, a, [&]<class Act>(Act, Index gate, Index up, Index i) {
      const Real g = h.gate.template data<Real>()[gate], d = dy.template data<Real>()[i];
      if (dgate.defined()) {
        dgate.template data<Real>()[gate] = d * h.up.template data<Real>()[up] * Act::d(g);
      }
      if (dup.defined()) {
        dup.template data<Real>()[up] = d * Act::f(g);
      }
    });
  }
};

Cost cost(const Glu::In<Tensor>& in, const Glu::Attrs&) {
  const double n = in.x.defined() ? in.x.numel() : 2.0 * in.gate.numel();
  return {.bytes = 1.5 * n * dtype_size((in.x.defined() ? in.x : in.gate).dtype()), .flops = 5 * n};
}

LS_OP(Glu, "glu", "gated linear unit: act(gate) * up")
    .in("x[...,2*F]? gate[...,F]? up[...,F]?")
    .out("y[...,F]")
    .saves("x gate up")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
