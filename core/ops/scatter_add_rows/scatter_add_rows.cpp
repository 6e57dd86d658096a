#include "core/ops/scatter_add_rows/scatter_add_rows.h"

#include "core/ops/common/indices.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = ScatterAddRows;

void bind(const Op::In<ShapeOf>&, const Op::Attrs& a, Bindings& b) {
  LS_CHECK(a.rows >= 0, kShape, "scatter_add_rows: {} rows", a.rows);
  b.set("N", a.rows);
}

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    if (!check_indices("scatter_add_rows", "index", in.index, -1, a.rows)) {
      return leave_zero(out);
    }
    const common::Joined<const Real, 2> x(in.x);
    const common::Joined<const std::int64_t, 1> index(in.index);
    const View<Real, 2> y(common::zeroed(out.y));
    for (Index r = 0; r < x.size(0); ++r) {
      if (index(r) < 0) {
        continue;
      }
      for (Index c = 0; c < x.size(1); ++c) {
        y(index(r), c) += x(r, c);
      }
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    if (!check_indices("scatter_add_rows", "index", in.index, -1, a.rows)) {
      return leave_zero(din);
    }
    const common::Joined<const std::int64_t, 1> index(in.index);
    const View<const Real, 2> gy(dout.y);
    const common::Joined<Real, 2> gx(din.x);
    for (Index r = 0; r < gx.size(0); ++r) {
      for (Index c = 0; c < gx.size(1); ++c) {
        gx(r, c) = index(r) < 0 ? Real(0) : gy(index(r), c);
      }
    }
  }
};

Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs& a) {
  const Index row = in.x.size(-1) * dtype_size(in.x.dtype());
  return {.bytes = 1.0 * in.x.bytes() + a.rows * row, .flops = 1.0 * in.x.numel()};
}

LS_OP(ScatterAddRows, "scatter_add_rows",
      "rows added into zeros by index; index -1 leaves a row out")
    .in("x[...,D] index[...]:i64")
    .out("y[N,D]")
    .saves("index")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
