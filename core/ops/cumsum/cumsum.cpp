#include "core/ops/cumsum/cumsum.h"

#include <vector>

namespace ls::ops {
namespace {

void bind(const Cumsum::In<Tensor>& in, const Cumsum::Attrs& a, Bindings&) {
  LS_CHECK(a.axis >= -in.x.rank() && a.axis < in.x.rank(), kShape, "cumsum: axis {} of a tensor {}",
           a.axis, in.x.describe());
}

template <class Real>
struct Reference {
  /// y[o, i, c] = sum of x[o, j, c] over j <= i, or over j >= i.
  static void sums(const Tensor& in, Tensor& out, int axis, bool from_the_end) {
    const std::vector<Real> x = in.to_vector<Real>();
    const Index n = in.size(axis);
    Index inner = 1;
    for (int i = in.rank() - 1; i > (axis < 0 ? axis + in.rank() : axis); --i) {
      inner *= in.size(i);
    }
    for (Index first = 0; first < in.numel(); ++first) {
      if (first / inner % n != 0) {
        continue;
      }
      double sum = 0;
      for (Index k = 0; k < n; ++k) {
        const Index i = first + (from_the_end ? n - 1 - k : k) * inner;
        sum += static_cast<double>(x[static_cast<std::size_t>(i)]);
        out.data<Real>()[i] = static_cast<Real>(sum);
      }
    }
  }
  static void forward(const Cumsum::In<Tensor>& in, Cumsum::Out<Tensor>& out,
                      const Cumsum::Attrs& a) {
    sums(in.x, out.y, a.axis, a.reverse);
  }
  static void backward(const Cumsum::In<Tensor>&, const Cumsum::Out<Tensor>&,
                       const Cumsum::Out<Tensor>& dout, Cumsum::In<Tensor>& din,
                       const Cumsum::Attrs& a) {
    sums(dout.y, din.x, a.axis, !a.reverse);
  }
};

Cost cost(const Cumsum::In<Tensor>& in, const Cumsum::Attrs&) {
  return {.bytes = 2.0 * in.x.bytes(), .flops = 1.0 * in.x.numel()};
}

LS_OP(Cumsum, "cumsum", "running sums along an axis, from either end")
    .in("x[...]")
    .out("y[...]")
    .saves("")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
