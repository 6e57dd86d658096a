// One team of threads a row, which reads it twice: the second time from cache.
#include "core/ops/l2_norm/l2_norm.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"

namespace ls::ops {
namespace {

using Op = L2Norm;

/// What a row of that length is divided by, and the derivative.
template <class A>
struct Divisor {
  Op::Eps mode;
  A eps;
  __device__ A of(A length) const {
    switch (mode) {
      case Op::Eps::kInside:
        return sqrt(length * length + eps);
      case Op::Eps::kMax:
        return length > eps || length != length ? length : eps;
      default:
        return length + eps;
    }
  }
  __device__ A slope(A length) const {
    switch (mode) {
      case Op::Eps::kInside:
        return length / of(length);
      case Op::Eps::kMax:
        return length > eps ? A(1) : A(0);
      default:
        return A(1);
    }
  }
};

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const RowPattern rows = *rows_of(in.x.layout());
    const Index n = rows.cols;
    const cuda::RowsIn<T> x(in.x);
    const cuda::RowsTo<T> y(out.y);
    const Divisor<A> divisor{a.mode, static_cast<A>(a.eps)};
    cuda::for_each_row<T>(rows.count, n,
                          [=] __device__(Index r, bool writes, auto team, auto width) {
                            constexpr int kWidth = decltype(width)::value;
                            const T* const row = x.row(r);
                            A square = 0;
                            team.template each<kWidth>(n, [&](Index c) {
                              A v[kWidth];
                              cuda::load(row + c, v);
                              for (int i = 0; i < kWidth; ++i) {
                                square += v[i] * v[i];
                              }
                            });
                            const A over = A(1) / divisor.of(sqrt(team.sum(square)));
                            team.template each<kWidth>(writes ? n : 0, [&](Index c) {
                              A v[kWidth];
                              cuda::load(row + c, v);
                              for (int i = 0; i < kWidth; ++i) {
                                v[i] *= over;
                              }
                              cuda::store(y.row(r) + c, v);
                            });
                          });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const RowPattern rows = *rows_of(in.x.layout());
    const Index n = rows.cols;
    const cuda::RowsIn<T> x(in.x), gy(dout.y);
    const cuda::RowsTo<T> gx(din.x);
    const Divisor<A> divisor{a.mode, static_cast<A>(a.eps)};
    cuda::for_each_row<T>(
        rows.count, n, [=] __device__(Index r, bool writes, auto team, auto width) {
          constexpr int kWidth = decltype(width)::value;
          const T *const row = x.row(r), *const dy = gy.row(r);
          A square = 0, product = 0;
          team.template each<kWidth>(n, [&](Index c) {
            A v[kWidth], g[kWidth];
            cuda::load(row + c, v);
            cuda::load(dy + c, g);
            for (int i = 0; i < kWidth; ++i) {
              square += v[i] * v[i];
              product += v[i] * g[i];
            }
          });
          const A length = sqrt(team.sum(square)), by = divisor.of(length);
          const A dby = -team.sum(product) / (by * by);
          const A along = length > A(0) ? dby * divisor.slope(length) / length : A(0);
          team.template each<kWidth>(writes ? n : 0, [&](Index c) {
            A v[kWidth], g[kWidth];
            cuda::load(row + c, v);
            cuda::load(dy + c, g);
            for (int i = 0; i < kWidth; ++i) {
              g[i] = g[i] / by + along * v[i];
            }
            cuda::store(gx.row(r) + c, g);
          });
        });
  }
};

LS_KERNEL(L2Norm)
    .on(DeviceType::kCuda)
    .reads("x y", lies::rows)
    .strided_grad("x")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
