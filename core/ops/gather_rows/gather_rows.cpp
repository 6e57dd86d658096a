#include "core/ops/gather_rows/gather_rows.h"

#include "core/ops/common/indices.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = GatherRows;

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const View<const Real, 2> x(in.x);
    if (!check_indices("gather_rows", "index", in.index, -1, x.size(0))) {
      return leave_zero(out);
    }
    const common::Joined<const std::int64_t, 1> index(in.index);
    const common::Joined<Real, 2> y(out.y);
    for (Index r = 0; r < y.size(0); ++r) {
      for (Index c = 0; c < y.size(1); ++c) {
        y(r, c) = index(r) < 0 ? Real(0) : x(index(r), c);
      }
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    if (!check_indices("gather_rows", "index", in.index, -1, din.x.size(0))) {
      return leave_zero(din);
    }
    const common::Joined<const std::int64_t, 1> index(in.index);
    const common::Joined<const Real, 2> gy(dout.y);
    const View<Real, 2> gx(common::zeroed(din.x));
    for (Index r = 0; r < gy.size(0); ++r) {
      if (index(r) < 0) {
        continue;
      }
      for (Index c = 0; c < gy.size(1); ++c) {
        gx(index(r), c) += gy(r, c);
      }
    }
  }
};

Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs&) {
  const Index row = in.x.size(1) * dtype_size(in.x.dtype());
  return {.bytes = 1.0 * in.index.numel() * (8 + 2 * row), .flops = 0};
}

LS_OP(GatherRows, "gather_rows", "rows by index; index -1 gives zeros")
    .in("x[N,D] index[...]:i64")
    .out("y[...,D]")
    .saves("index")
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
