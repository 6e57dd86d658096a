// y[r] = scale weight[ids[r]], y [N, d]. Forward: a thread owns rows of y. Backward: it owns
// channels of the table [V, d], so that rows with the same id are added in their order.
#include "core/ops/embedding/embedding.h"

#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/indices.h"

namespace ls::ops {
namespace {

template <class T>
struct Kernel {
  using Op = Embedding;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    if (!check_indices("embedding", "ids", in.ids, 0, in.weight.size(0))) {
      return leave_zero(out);
    }
    const Index d = in.weight.size(1);
    const T* wp = in.weight.data<T>();
    const std::int64_t* id = in.ids.data<std::int64_t>();
    T* y = out.y.data<T>();
    const T scale = static_cast<T>(a.scale);
    parallel_for(in.ids.numel(), row_grain(d), [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        for (Index c = 0; c < d; ++c) {
          y[r * d + c] = scale * wp[id[r] * d + c];
        }
      }
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    if (!check_indices("embedding", "ids", in.ids, 0, din.weight.size(0))) {
      return leave_zero(din);
    }
    const Index d = din.weight.size(1);
    const std::int64_t* id = in.ids.data<std::int64_t>();
    const T* gp = dout.y.data<T>();
    T* dw = din.weight.data<T>();
    const T scale = static_cast<T>(a.scale);
    // Each thread owns channels, so that sums over repeated ids keep their order.
    parallel_for(d, 16, [&](Index c0, Index c1) {
      for (Index r = 0; r < din.weight.size(0) && !din.weight.adds(); ++r) {
        std::fill(dw + r * d + c0, dw + r * d + c1, T(0));
      }
      for (Index r = 0; r < in.ids.numel(); ++r) {
        if (id[r] != a.padding_idx) {
          for (Index c = c0; c < c1; ++c) {
            dw[id[r] * d + c] += scale * gp[r * d + c];
          }
        }
      }
    });
  }
};

LS_KERNEL(Embedding).adds_grad("weight").kernel<Kernel, double, float>();

}  // namespace
}  // namespace ls::ops
