// p = exp(s x - lse) over rows of d, or its logarithm. A thread owns rows and a buffer of one or
// two of them. With b = dlse - sum(dy p), or dlse - sum(dy) of the logarithm: dx = s p (dy + b), or
// s (dy + p b).
#include "core/ops/softmax/softmax.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/backend/cpu/simd_math.h"
#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/elements.h"
#include "core/tensor/rows.h"
#include "core/tensor/tensor.h"

namespace ls::ops {
namespace {

template <class A>
struct Exponentials {
  A top, sum;
};
/// v = scale * x and the greatest of it; then e = exp(v - top) and its sum. `e` may be `v`.
template <class T, class A>
Exponentials<A> exponentials(const T* x, A scale, Index d, A* v, A* e) {
  A top = -std::numeric_limits<A>::infinity(), sum = 0;
  for (Index c = 0; c < d; ++c) {
    v[c] = scale * convert<A>(x[c]);
  }
#pragma omp simd reduction(max : top)
  for (Index c = 0; c < d; ++c) {
    top = v[c] > top ? v[c] : top;
  }
#pragma omp simd reduction(+ : sum)
  for (Index c = 0; c < d; ++c) {
    e[c] = simd::exp(v[c] - top);
    sum += e[c];
  }
  return {top, sum};
}

template <class T>
struct Kernel {
  using A = acc_t<T>;

  static void forward(const Softmax::In<TensorView>& in, Softmax::Out<TensorView>& out,
                      const Softmax::Attrs& a) {
    const Rows x(in.x);
    const Index d = x.cols;
    const A scale = static_cast<A>(a.scale);
    T* y = out.y.data<T>();
    A* lse = out.lse.data<A>();
    parallel_for(x.count, row_grain(d, 4096), [&](Index r0, Index r1) {
      std::vector<A> buffer(static_cast<std::size_t>(2 * d));
      A* v = buffer.data();
      A* e = v + d;
      for (Index r = r0; r < r1; ++r) {
        T* yp = y + r * d;
        const auto [top, sum] = exponentials(x.row<T>(r), scale, d, v, e);
        const A log_sum = std::log(sum), scale_down = A(1) / sum;
        lse[r] = top + log_sum;
        for (Index c = 0; c < d; ++c) {
          yp[c] = convert<T>(a.log ? (v[c] - top) - log_sum : e[c] * scale_down);
        }
      }
    });
  }

  // The probabilities are made anew: neither 16-bit logarithms nor x - lse hold all their digits.
  static void backward(const Softmax::In<TensorView>& in, const Softmax::Out<TensorView>&,
                       const Softmax::Out<TensorView>& dout, Softmax::In<TensorView>& din,
                       const Softmax::Attrs& a) {
    const Rows x(in.x);
    const Tensor zeros = dout.y.defined() ? Tensor() : Tensor::zeros(in.x.shape(), in.x.dtype());
    const Rows dy(dout.y.defined() ? dout.y : TensorView(zeros));
    const A* dlse = common::elements<A>(dout.lse);
    const Index d = x.cols;
    const A scale = static_cast<A>(a.scale);
    T* dx = din.x.data<T>();
    parallel_for(x.count, row_grain(d, 4096), [&](Index r0, Index r1) {
      std::vector<A> buffer(static_cast<std::size_t>(d));
      A* p = buffer.data();
      for (Index r = r0; r < r1; ++r) {
        const T* gp = dy.row<T>(r);
        const A down = A(1) / exponentials(x.row<T>(r), scale, d, p, p).sum;
        A sum = 0;
        for (Index c = 0; c < d; ++c) {
          p[c] *= down;
        }
        if (a.log) {
#pragma omp simd reduction(+ : sum)
          for (Index c = 0; c < d; ++c) {
            sum += convert<A>(gp[c]);
          }
        } else {
#pragma omp simd reduction(+ : sum)
          for (Index c = 0; c < d; ++c) {
            sum += p[c] * convert<A>(gp[c]);
          }
        }
        const A back = (dlse ? dlse[r] : A(0)) - sum;
        for (Index c = 0; c < d; ++c) {
          const A g = convert<A>(gp[c]);
          dx[r * d + c] = convert<T>(scale * (a.log ? g + p[c] * back : p[c] * (g + back)));
        }
      }
    });
  }
};

LS_KERNEL(Softmax).reads("x y", lies::rows).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
