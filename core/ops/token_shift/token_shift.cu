// Elementwise: a token and the one before it, which the neighbouring thread has read.
#include "core/ops/token_shift/token_shift.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"
#include "core/ops/common/sequences.cuh"

namespace ls::ops {
namespace {

using Op = TokenShift;

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const Index rows = in.x.size(0) * in.x.size(1), d = in.x.size(2);
    const common::DeviceSequences seqs(in.x.size(0), in.x.size(1), in.offsets);
    static const std::int32_t kBadOffset = error_source("token_shift: offsets");
    seqs.check(kBadOffset);
    const cuda::RowsIn<T> x(in.x);
    const cuda::RowsIn<A> s0(in.s0);
    const Index entries = in.s0.defined() ? in.s0.size(0) : 0;
    const cuda::RowsTo<T> y(out.y);
    const auto shape = cuda::RowShape(rows, d).with(x).with(s0).with(y).apart();
    cuda::for_each<A>(shape, [=] __device__(Index t, Index c, auto width) {
      constexpr int kWidth = decltype(width)::value;
      A here[kWidth], before[kWidth] = {};
      cuda::load(x.row(t) + c, here);
      const Index n = seqs.of(t);
      if (t > seqs.begin(n)) {
        cuda::load(x.row(t - 1) + c, before);
      } else if (seqs.start(n) < entries) {
        cuda::load(s0.row(seqs.start(n)) + c, before);
      }
      for (int i = 0; i < kWidth; ++i) {
        here[i] = before[i] - here[i];
      }
      cuda::store(y.row(t) + c, here);
    });
    A* const sT = out.sT.data<A>();
    cuda::for_each<1>(cuda::RowShape(seqs.batch, d).apart(),
                      [=] __device__(Index row, Index c, auto) {
                        const Index n = seqs.last_of(row), begin = seqs.begin(n), end = seqs.end(n);
                        sT[row * d + c] = end > begin ? cuda::to_acc<A>(x.row(end - 1)[c])
                                          : s0        ? s0.row(row)[c]
                                                      : A(0);
                      });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const Index rows = in.x.size(0) * in.x.size(1), d = in.x.size(2);
    const common::DeviceSequences seqs(in.x.size(0), in.x.size(1), in.offsets);
    const cuda::RowsIn<T> gy(dout.y);
    const cuda::RowsIn<A> gsT(dout.sT);
    const cuda::RowsTo<T> gx(din.x);
    if (gx) {
      const auto shape = cuda::RowShape(rows, d).with(gy).with(gsT).with(gx).apart();
      cuda::for_each<A>(shape, [=] __device__(Index t, Index c, auto width) {
        constexpr int kWidth = decltype(width)::value;
        A here[kWidth] = {}, next[kWidth] = {};
        if (gy) {
          cuda::load(gy.row(t) + c, here);
        }
        const Index n = seqs.of(t);
        if (t + 1 < seqs.end(n)) {
          if (gy) {
            cuda::load(gy.row(t + 1) + c, next);
          }
        } else if (gsT && seqs.stop(n) >= 0) {
          cuda::load(gsT.row(seqs.stop(n)) + c, next);
        }
        for (int i = 0; i < kWidth; ++i) {
          next[i] -= here[i];
        }
        cuda::store(gx.row(t) + c, next);
      });
    }
    if (din.s0.defined()) {
      A* const gs0 = din.s0.data<A>();
      cuda::for_each<1>(cuda::RowShape(din.s0.size(0), d).apart(),
                        [=] __device__(Index entry, Index c, auto) {
                          gs0[entry * d + c] = seqs.over_starts<A>(entry, [&](Index n) {
                            const Index begin = seqs.begin(n);
                            if (seqs.end(n) > begin) {
                              return gy ? cuda::to_acc<A>(gy.row(begin)[c]) : A(0);
                            }
                            return gsT ? gsT.row(n)[c] : A(0);
                          });
                        });
    }
  }
};

LS_KERNEL(TokenShift)
    .on(DeviceType::kCuda)
    .reads("x y", lies::rows)
    .strided_grad("x")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
