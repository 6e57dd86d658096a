// y[r] = scale weight[ids[r]], y [N, d]. Forward: a thread owns rows of y. Backward: it owns
// channels of the table [V, d], so that rows with the same id are added in their order.
#include "core/ops/embedding/embedding.h"

#include "core/base/parallel_for.h"

namespace ls::ops {
namespace {

template <class T>
struct Kernel {
  using Op = Embedding;
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    const Tensor w = in.weight.contiguous(), ids = in.ids.contiguous();
    const Index d = w.size(1);
    const T* wp = w.data<T>();
    const std::int64_t* id = ids.data<std::int64_t>();
    T* y = out.y.data<T>();
    const T scale = static_cast<T>(a.scale);
    parallel_for(ids.numel(), row_grain(d), [&](Index r0, Index r1) {
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
    const T* gp = g.data<T>();
    T* dw = din.weight.data<T>();
    const T scale = static_cast<T>(a.scale);
    // Each thread owns channels, so that sums over repeated ids keep their order.
    parallel_for(d, 16, [&](Index c0, Index c1) {
      for (Index r = 0; r < din.weight.size(0); ++r) {
        std::fill(dw + r * d + c0, dw + r * d + c1, T(0));
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

LS_KERNEL(Embedding).kernel<Kernel, double, float>();

}  // namespace
}  // namespace ls::ops
