#include "core/ops/running_max/running_max.h"

#include <cmath>

#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = RunningMax;

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const common::Joined<const Real, 1> g(in.g), a(in.a), b(in.b);
    const common::Joined<Real, 1> m(out.m), earlier(out.earlier), later(out.later);
    for (Index i = 0; i < m.size(0); ++i) {
      m(i) = std::max(g(i) + a(i), b(i));
      earlier(i) = std::exp(g(i) + (a(i) - m(i)));
      later(i) = std::exp(b(i) - m(i));
    }
  }
  /// One of the two factors is 1, whatever the inputs are.
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const common::Joined<const Real, 1> g(in.g), a(in.a), b(in.b);
    const common::Joined<const Real, 1> earlier(out.earlier), later(out.later);
    const common::Joined<const Real, 1> gm(dout.m), ge(dout.earlier), gl(dout.later);
    auto d = common::zero_gradients(in, din);
    const common::Joined<Real, 1> dg(d.g), da(d.a), db(d.b);
    for (Index i = 0; i < g.size(0); ++i) {
      const bool first = g(i) + a(i) > b(i);
      const Real of_m = common::or_zero(gm, i);
      const Real of_factor =
          first ? later(i) * common::or_zero(gl, i) : earlier(i) * common::or_zero(ge, i);
      dg(i) = da(i) = first ? of_m - of_factor : of_factor;
      db(i) = first ? of_factor : of_m - of_factor;
    }
  }
};

LS_OP(RunningMax, "running_max", "two sums of exponentials brought to one maximum")
    .in("g[...] a[...] b[...]")
    .out("m[...] earlier[...] later[...]")
    .saves("g a b earlier later")
    .reference<Reference>()
    .cost(6, 6);

}  // namespace
}  // namespace ls::ops
