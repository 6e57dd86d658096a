// y = x / n over rows of d, n the length of the row with eps as Divisor says. A thread owns rows.
// With n' = slope x: dx = dy / n - x sum(x dy) slope / n^2.
#include "core/ops/l2_norm/l2_norm.h"

#include <cmath>

#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

/// Divisor of a row and its slope in the squared length, times two: d divisor / dx = slope * x.
template <class A>
struct Divisor {
  A value, slope;
};
template <class A>
Divisor<A> divisor(A square, const L2Norm::Attrs& a) {
  const A eps = static_cast<A>(a.eps);
  if (a.mode == L2Norm::Eps::kInside) {
    const A n = std::sqrt(square + eps);
    return {n, A(1) / n};
  }
  const A n = std::sqrt(square);
  const A slope = n > 0 ? A(1) / n : A(0);
  if (a.mode == L2Norm::Eps::kOutside) {
    return {n + eps, slope};
  }
  return n > eps || std::isnan(n) ? Divisor<A>{n, slope} : Divisor<A>{eps, A(0)};
}

template <class T>
struct Kernel {
  using A = acc_t<T>;

  static void forward(const L2Norm::In<TensorView>& in, L2Norm::Out<TensorView>& out,
                      const L2Norm::Attrs& a) {
    const Rows x(in.x);
    const Index d = x.cols;
    T* y = out.y.data<T>();
    parallel_for(x.count, row_grain(d), [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        const T* xp = x.row<T>(r);
        A square = 0;
#pragma omp simd reduction(+ : square)
        for (Index c = 0; c < d; ++c) {
          square += convert<A>(xp[c]) * convert<A>(xp[c]);
        }
        const A scale = A(1) / divisor(square, a).value;
        for (Index c = 0; c < d; ++c) {
          y[r * d + c] = convert<T>(convert<A>(xp[c]) * scale);
        }
      }
    });
  }

  static void backward(const L2Norm::In<TensorView>& in, const L2Norm::Out<TensorView>&,
                       const L2Norm::Out<TensorView>& dout, L2Norm::In<TensorView>& din,
                       const L2Norm::Attrs& a) {
    const Rows x(in.x), dy(dout.y);
    const Index d = x.cols;
    T* dx = din.x.data<T>();
    parallel_for(x.count, row_grain(d), [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        const T* xp = x.row<T>(r);
        const T* gp = dy.row<T>(r);
        A square = 0, dot = 0;
#pragma omp simd reduction(+ : square, dot)
        for (Index c = 0; c < d; ++c) {
          square += convert<A>(xp[c]) * convert<A>(xp[c]);
          dot += convert<A>(xp[c]) * convert<A>(gp[c]);
        }
        const auto [n, slope] = divisor(square, a);
        const A scale = A(1) / n, back = dot * scale * scale * slope;
        for (Index c = 0; c < d; ++c) {
          dx[r * d + c] = convert<T>(convert<A>(gp[c]) * scale - convert<A>(xp[c]) * back);
        }
      }
    });
  }
};

LS_KERNEL(L2Norm).reads("x y", lies::rows).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
