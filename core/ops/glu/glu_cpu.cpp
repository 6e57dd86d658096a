#include "core/backend/cpu/parallel_for.h"
#include "core/backend/cpu/rows.h"
#include "core/ops/activation/functions.h"
#include "core/ops/glu/glu.h"

namespace ls {
namespace {

struct Halves {
  Rows gate, up;
  explicit Halves(const Glu::In<Tensor>& in)
      : gate(in.x.defined() ? in.x.slice(-1, 0, in.x.size(-1) / 2) : in.gate),
        up(in.x.defined() ? in.x.slice(-1, in.x.size(-1) / 2, in.x.size(-1)) : in.up) {}
};

constexpr Index kGrain = 1 << 13;
constexpr Index kAhead = 2;

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
                     h.gate.prefetch<T>(r + kAhead);
                     h.up.prefetch<T>(r + kAhead);
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
                     h.gate.prefetch<T>(r + kAhead);
                     h.up.prefetch<T>(r + kAhead);
                     dy.prefetch<T>(r + kAhead);
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

LS_KERNEL(Glu).types<double, float, bf16>([]<class T>() {
  return std::pair(&glu_forward<T>, &glu_backward<T>);
});

}  // namespace
}  // namespace ls
