#include "core/ops/top_k/top_k.h"

#include <cmath>
#include <set>

#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = TopK;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs& a, Bindings& b) {
  LS_CHECK(a.k >= 1 && a.k <= in.x.size(-1), kShape, "top_k: k = {} of rows of {}", a.k,
           in.x.size(-1));
  b.set("K", a.k);
}

template <class Real>
struct Reference {
  /// NaN is the greatest number.
  static bool greater(Real x, Real y) { return std::isnan(x) ? !std::isnan(y) : x > y; }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x);
    const common::Joined<Real, 2> values(out.values);
    const common::Joined<std::int64_t, 2> index(out.index);
    for (Index r = 0; r < x.size(0); ++r) {
      std::set<Index> taken;
      for (Index i = 0; i < a.k; ++i) {
        Index best = -1;  // the first greatest of those that are left
        for (Index c = 0; c < x.size(1); ++c) {
          if (!taken.contains(c) && (best < 0 || greater(x(r, c), x(r, best)))) {
            best = c;
          }
        }
        taken.insert(best);
        values(r, i) = x(r, best);
        index(r, i) = best;
      }
    }
  }
  static void backward(const Op::In<TensorView>&, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const common::Joined<const std::int64_t, 2> index(out.index);
    const common::Joined<const Real, 2> gvalues(dout.values);
    const common::Joined<Real, 2> gx(common::zeroed(din.x));
    for (Index r = 0; r < gx.size(0); ++r) {
      for (Index i = 0; i < a.k; ++i) {
        gx(r, index(r, i)) = gvalues(r, i);
      }
    }
  }
};

LS_OP(TopK, "top_k", "the k greatest elements of each row and their places")
    .in("x[...,D]")
    .out("values[...,K] index[...,K]:i64")
    .saves("index")
    .bind(bind)
    .reference<Reference>()
    .cost(1, 1);

}  // namespace
}  // namespace ls::ops
