// y = f(x) element by element, dx = dy f'(x). Threads own rows, or stretches of the one long row
// that x is where it has no gaps.
#include "core/ops/activation/activation.h"

#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/activations.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

constexpr Index kGrain = 1 << 14;

/// f(row, first, last) over all elements, in pieces of rows or of the one long row.
template <class F>
void for_elements(const Rows& x, F&& f) {
  if (x.count == 1) {
    parallel_for(x.cols, kGrain, [&](Index c0, Index c1) { f(0, c0, c1); });
    return;
  }
  parallel_for(x.count, row_grain(x.cols, kGrain), [&](Index r0, Index r1) {
    for (Index r = r0; r < r1; ++r) {
      f(r, 0, x.cols);
    }
  });
}

template <class T>
void forward(const Activation::In<TensorView>& in, Activation::Out<TensorView>& out,
             const Activation::Attrs& a) {
  using A = acc_t<T>;
  Rows x(in.x);
  if (x.dense()) {
    x.join();
  }
  T* const y = out.y.data<T>();
  act::dispatch(a.activation, [&]<class F>() {
    for_elements(x, [&](Index r, Index c0, Index c1) {
      const T* __restrict xp = x.row<T>(r);
      T* __restrict yp = y + r * x.cols;
      for (Index c = c0; c < c1; ++c) {
        yp[c] = convert<T>(F::f(convert<A>(xp[c])));
      }
    });
  });
}

template <class T>
void backward(const Activation::In<TensorView>& in, const Activation::Out<TensorView>&,
              const Activation::Out<TensorView>& dout, Activation::In<TensorView>& din,
              const Activation::Attrs& a) {
  using A = acc_t<T>;
  Rows x(in.x), g(dout.y);
  const RowsOut<T> dx(din.x);
  if (x.dense() && g.dense() && dx.dense()) {
    x.join();
    g.join();
  }
  act::dispatch(a.activation, [&]<class F>() {
    for_elements(x, [&](Index r, Index c0, Index c1) {
      const T* __restrict xp = x.row<T>(r);
      const T* __restrict gp = g.row<T>(r);
      T* __restrict dp = dx.row(r);
      for (Index c = c0; c < c1; ++c) {
        dp[c] = convert<T>(convert<A>(gp[c]) * F::d(convert<A>(xp[c])));
      }
    });
  });
}

LS_KERNEL(Activation)
    .reads("x y", lies::rows)
    .strided_grad("x")
    .types<double, float, bf16>([]<class T>() { return std::pair(&forward<T>, &backward<T>); });

}  // namespace
}  // namespace ls::ops
