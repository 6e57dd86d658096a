#include "core/ops/embedding/embedding.h"

#include "core/ops/common/indices.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = Embedding;

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const View<const Real, 2> weight(in.weight);
    if (!check_indices("embedding", "ids", in.ids, 0, weight.size(0))) {
      return leave_zero(out);
    }
    const common::Joined<const std::int64_t, 1> ids(in.ids);
    const common::Joined<Real, 2> y(out.y);
    for (Index r = 0; r < y.size(0); ++r) {
      for (Index c = 0; c < y.size(1); ++c) {
        y(r, c) = Real(a.scale) * weight(ids(r), c);
      }
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    if (!check_indices("embedding", "ids", in.ids, 0, din.weight.size(0))) {
      return leave_zero(din);
    }
    const common::Joined<const std::int64_t, 1> ids(in.ids);
    const common::Joined<const Real, 2> gy(dout.y);
    const View<Real, 2> gweight(common::zeroed(din.weight));
    for (Index r = 0; r < gy.size(0); ++r) {
      for (Index c = 0; c < gy.size(1); ++c) {
        gweight(ids(r), c) += ids(r) == a.padding_idx ? Real(0) : Real(a.scale) * gy(r, c);
      }
    }
  }
};

Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs&) {
  return {.bytes = 2.0 * in.ids.numel() * in.weight.size(1) * dtype_size(in.weight.dtype()),
          .flops = 0};
}

LS_OP(Embedding, "embedding", "rows of a table by index")
    .in("weight[V,D] ids[...]:i64")
    .out("y[...,D]")
    .saves("ids")
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
