#include "core/ops/glu/glu.h"

#include "core/backend/cpu/parallel_for.h"
#include "core/backend/cpu/rows.h"
#include "core/ops/activation/functions.h"

namespace ls {
namespace {

void glu_bind(const Glu::In<Tensor>& in, const Glu::Attrs&, Bindings& b) {
  LS_CHECK(in.x.defined() != (in.gate.defined() && in.up.defined()), kShape,
           "glu: give either x with both halves, or gate and up");
  if (in.x.defined()) {
    LS_CHECK(in.x.size(-1) % 2 == 0, kShape, "glu: x has {} channels, an even number was expected",
             in.x.size(-1));
    b.set("F", in.x.size(-1) / 2);
  }
}

struct Halves {
  Rows gate, up;
  explicit Halves(const Glu::In<Tensor>& in)
      : gate(in.x.defined() ? in.x.slice(-1, 0, in.x.size(-1) / 2) : in.gate),
        up(in.x.defined() ? in.x.slice(-1, in.x.size(-1) / 2, in.x.size(-1)) : in.up) {}
};

constexpr Index kGrain = 1 << 13;

template <class T>
void glu_forward(const Glu::In<Tensor>& in, Glu::Out<Tensor>& out, const Glu::Attrs& a) {
  using A = acc_t<T>;
  const Halves h(in);
  const Index f = h.gate.cols;
  T* y = out.y.data<T>();
  act::dispatch(a.activation, [&]<class F>() {
    parallel_for(h.gate.count, std::max<Index>(1, kGrain / std::max<Index>(1, f)),
                 [&](Index r0, Index r1) {
                   for (Index r = r0; r < r1; ++r) {
                     const T* __restrict g = h.gate.row<T>(r);
                     const T* __restrict u = h.up.row<T>(r);
                     T* __restrict yp = y + r * f;
                     for (Index c = 0; c < f; ++c) {
                       yp[c] = convert<T>(F::f(convert<A>(g[c])) * convert<A>(u[c]));
                     }
                   }
                 });
  });
}

template <class T>
void glu_backward(const Glu::In<Tensor>& in, const Glu::Out<Tensor>&, const Glu::Out<Tensor>& dout,
                  Glu::In<Tensor>& din, const Glu::Attrs& a) {
  using A = acc_t<T>;
  const Halves h(in);
  const Rows dy(dout.y);
  const Index f = h.gate.cols;
  T* dgate = nullptr;
  T* dup = nullptr;
  Index stride = f;
  Tensor unwanted;  // a half that nobody asked for is computed all the same
  if (din.x.defined()) {
    dgate = din.x.data<T>();
    dup = dgate + f;
    stride = 2 * f;
  } else {
    if (!din.gate.defined() || !din.up.defined()) {
      unwanted = Tensor::empty({h.gate.count, f}, dtype_of_v<T>);
    }
    dgate = (din.gate.defined() ? din.gate : unwanted).data<T>();
    dup = (din.up.defined() ? din.up : unwanted).data<T>();
  }
  act::dispatch(a.activation, [&]<class F>() {
    parallel_for(h.gate.count, std::max<Index>(1, kGrain / std::max<Index>(1, f)),
                 [&](Index r0, Index r1) {
                   for (Index r = r0; r < r1; ++r) {
                     const T* __restrict g = h.gate.row<T>(r);
                     const T* __restrict u = h.up.row<T>(r);
                     const T* __restrict d = dy.row<T>(r);
                     T* __restrict dg = dgate + r * stride;
                     T* __restrict du = dup + r * stride;
                     for (Index c = 0; c < f; ++c) {
                       const A dy_c = convert<A>(d[c]);
                       A value, slope;
                       act::value_and_slope<F>(convert<A>(g[c]), value, slope);
                       dg[c] = convert<T>(dy_c * convert<A>(u[c]) * slope);
                       du[c] = convert<T>(dy_c * value);
                     }
                   }
                 });
  });
}

// On double the functions are the standard library's, so the same loops are the reference.
template <class Real>
struct GluRef {
  static void forward(const Glu::In<Tensor>& in, Glu::Out<Tensor>& out, const Glu::Attrs& a) {
    glu_forward<Real>(in, out, a);
  }
  static void backward(const Glu::In<Tensor>& in, const Glu::Out<Tensor>& out,
                       const Glu::Out<Tensor>& dout, Glu::In<Tensor>& din, const Glu::Attrs& a) {
    glu_backward<Real>(in, out, dout, din, a);
  }
};

Cost glu_cost(const Glu::In<Tensor>& in, const Glu::Attrs&) {
  const double n = static_cast<double>(in.x.defined() ? in.x.numel() : 2 * in.gate.numel());
  return {
      .bytes = 1.5 * n * static_cast<double>(dtype_size((in.x.defined() ? in.x : in.gate).dtype())),
      .flops = 5 * n};
}

LS_OP(Glu, "glu")
    .in("x[...,2*F]? gate[...,F]? up[...,F]?")
    .out("y[...,F]")
    .saves("x gate up")
    .bind(glu_bind)
    .summary("gated linear unit: act(gate) * up")
    .reference<GluRef>()
    .cost(glu_cost);

LS_KERNEL(Glu).forward<bf16>(&glu_forward<bf16>).backward<bf16>(&glu_backward<bf16>);

}  // namespace
}  // namespace ls
