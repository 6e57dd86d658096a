#include "core/ops/embedding/embedding.h"

#include "core/backend/cpu/parallel_for.h"

namespace ls {
namespace {

template <class Real>
struct EmbeddingRef {
  using Op = Embedding;
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    const Tensor w = in.weight.contiguous(), ids = in.ids.contiguous();
    const Index v = w.size(0), d = w.size(1);
    const Real* wp = w.data<Real>();
    const std::int64_t* id = ids.data<std::int64_t>();
    Real* y = out.y.data<Real>();
    const Real scale = static_cast<Real>(a.scale);
    for (Index r = 0; r < ids.numel(); ++r) {
      LS_CHECK(id[r] >= 0 && id[r] < v, kShape,
               "embedding: id {} at position {}, the table has {} rows", id[r], r, v);
    }
    parallel_for(ids.numel(), std::max<Index>(1, 8192 / std::max<Index>(1, d)),
                 [&](Index r0, Index r1) {
                   for (Index r = r0; r < r1; ++r) {
                     for (Index c = 0; c < d; ++c) {
                       y[r * d + c] = scale * wp[id[r] * d + c];
                     }
                   }
                 });
  }
  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs& a) {
    const Tensor ids = in.ids.contiguous(), g = dout.y.contiguous();
    const Index d = din.weight.size(1);
    const std::int64_t* id = ids.data<std::int64_t>();
    const Real* gp = g.data<Real>();
    Real* dw = din.weight.data<Real>();
    const Real scale = static_cast<Real>(a.scale);
    // Each thread owns channels, so that sums over repeated ids keep their order.
    parallel_for(d, 16, [&](Index c0, Index c1) {
      for (Index r = 0; r < din.weight.size(0); ++r) {
        std::fill(dw + r * d + c0, dw + r * d + c1, Real(0));
      }
      for (Index r = 0; r < ids.numel(); ++r) {
        if (id[r] != a.padding_idx) {
          for (Index c = c0; c < c1; ++c) {
            dw[id[r] * d + c] += scale * gp[r * d + c];
          }
        }
      }
    });
  }
};

Cost embedding_cost(const Embedding::In<Tensor>& in, const Embedding::Attrs&) {
  return {.bytes = 2.0 * static_cast<double>(in.ids.numel() * in.weight.size(1) *
                                             dtype_size(in.weight.dtype())),
          .flops = 0};
}

LS_OP(Embedding, "embedding")
    .in("weight[V,D] ids[...]:i64")
    .out("y[...,D]")
    .saves("ids")
    .summary("rows of a table by index")
    .reference<EmbeddingRef>()
    .cost(embedding_cost);

}  // namespace
}  // namespace ls
