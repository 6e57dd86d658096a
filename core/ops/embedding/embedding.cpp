#include "core/ops/embedding/embedding.h"

#include <vector>

namespace ls::ops {
namespace {

void bind(const Embedding::In<Tensor>& in, const Embedding::Attrs&, Bindings&) {
  const std::vector<std::int64_t> ids = in.ids.to_vector<std::int64_t>();
  const Index rows = in.weight.size(0);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    LS_CHECK(ids[i] >= 0 && ids[i] < rows, kShape,
             "embedding: id {} at position {}, the table has {} rows", ids[i], i, rows);
  }
}

template <class Real>
struct Reference {
  using Op = Embedding;
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    const std::vector<Real> weight = in.weight.to_vector<Real>();
    const Index d = in.weight.size(1);
    Real* y = out.y.data<Real>();
    for (const std::int64_t id : in.ids.to_vector<std::int64_t>()) {
      for (Index c = 0; c < d; ++c) {
        *y++ = static_cast<Real>(a.scale) * weight[static_cast<std::size_t>(id * d + c)];
      }
    }
  }
  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs& a) {
    const std::vector<Real> dy = dout.y.to_vector<Real>();
    const Index d = din.weight.size(1);
    Real* dw = din.weight.zero_().data<Real>();
    auto g = dy.begin();
    for (const std::int64_t id : in.ids.to_vector<std::int64_t>()) {
      for (Index c = 0; c < d; ++c, ++g) {
        dw[id * d + c] += id == a.padding_idx ? Real(0) : static_cast<Real>(a.scale) * *g;
      }
    }
  }
};

Cost cost(const Embedding::In<Tensor>& in, const Embedding::Attrs&) {
  return {.bytes = 2.0 * in.ids.numel() * in.weight.size(1) * dtype_size(in.weight.dtype()),
          .flops = 0};
}

LS_OP(Embedding, "embedding", "rows of a table by index")
    .in("weight[V,D] ids[...]:i64")
    .out("y[...,D]")
    .saves("ids")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
