// y = f(x + b), x and y [rows, d]. Forward: a thread owns rows. Backward: it owns channels, so that
// the gradient of b, a sum over all rows, has one owner and one order.
#include "core/ops/bias_act/bias_act.h"

#include <vector>

#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/activations.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

constexpr Index kGrain = 1 << 13;

template <class T>
void forward(const BiasAct::In<TensorView>& in, BiasAct::Out<TensorView>& out,
             const BiasAct::Attrs& a) {
  using A = acc_t<T>;
  const Rows x(in.x);
  const std::vector<A> zeros(in.bias.defined() ? 0 : static_cast<std::size_t>(x.cols));
  const A* b = in.bias.defined() ? in.bias.data<A>() : zeros.data();
  T* y = out.y.data<T>();
  act::dispatch(a.activation, [&]<class F>() {
    parallel_for(x.count, row_grain(x.cols, kGrain), [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        const T* __restrict xp = x.row<T>(r);
        T* __restrict yp = y + r * x.cols;
        for (Index c = 0; c < x.cols; ++c) {
          yp[c] = convert<T>(F::f(convert<A>(xp[c]) + b[c]));
        }
      }
    });
  });
}

template <class T>
void backward(const BiasAct::In<TensorView>& in, const BiasAct::Out<TensorView>&,
              const BiasAct::Out<TensorView>& dout, BiasAct::In<TensorView>& din,
              const BiasAct::Attrs& a) {
  using A = acc_t<T>;
  const Rows x(in.x), dy(dout.y);
  const std::vector<A> zeros(in.bias.defined() ? 0 : static_cast<std::size_t>(x.cols));
  const A* b = in.bias.defined() ? in.bias.data<A>() : zeros.data();
  T* dx = din.x.defined() ? din.x.data<T>() : nullptr;
  A* db = din.bias.defined() ? din.bias.data<A>() : nullptr;
  // By channels, so that the sum over rows has one owner and one order.
  act::dispatch(a.activation, [&]<class F>() {
    parallel_for(x.cols, 64, [&](Index c0, Index c1) {
      if (db) {
        std::fill(db + c0, db + c1, A(0));
      }
      for (Index r = 0; r < x.count; ++r) {
        const T* __restrict xp = x.row<T>(r);
        const T* __restrict gp = dy.row<T>(r);
        for (Index c = c0; c < c1; ++c) {
          const A d = convert<A>(gp[c]) * F::d(convert<A>(xp[c]) + b[c]);
          if (dx) {
            dx[r * x.cols + c] = convert<T>(d);
          }
          if (db) {
            db[c] += d;
          }
        }
      }
    });
  });
}

LS_KERNEL(BiasAct).reads("x y", lies::rows).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
