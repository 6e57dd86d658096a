// k = (1 - low) sigmoid(-x), g = log(low + (1 - low) sigmoid(x)), for large f as log(1 - k). A
// thread owns rows.
#include "core/backend/cpu/simd_math.h"
#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/sigmoid_gate/sigmoid_gate.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

constexpr Index kGrain = 4096;  // elements

template <class T>
void forward(const SigmoidGate::In<TensorView>& in, SigmoidGate::Out<TensorView>& out,
             const SigmoidGate::Attrs& attrs) {
  using A = acc_t<T>;
  const Rows x(in.x);
  const Index d = x.cols;
  const A low = static_cast<A>(attrs.lower_bound), rest = static_cast<A>(1 - attrs.lower_bound);
  A* const g = out.g.data<A>();
  T* const k = out.k.data<T>();
  const auto run = [&](auto&& log_small) {
    parallel_for(x.count, row_grain(d, kGrain), [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        const T* __restrict from = x.row<T>(r);
        A* __restrict to_g = g + r * d;
        T* __restrict to_k = k + r * d;
        for (Index c = 0; c < d; ++c) {
          const A v = convert<A>(from[c]), open = rest * simd::sigmoid(-v);
          const A by_k = simd::log1p(-open), by_f = log_small(v);
          to_g[c] = open < A(0.5) ? by_k : by_f;
          to_k[c] = convert<T>(open);
        }
      }
    });
  };
  if (low > 0) {
    run([&](A v) { return simd::log(low + rest * simd::sigmoid(v)); });
  } else {
    run([](A v) { return simd::log_sigmoid(v); });
  }
}

template <class T>
void backward(const SigmoidGate::In<TensorView>& in, const SigmoidGate::Out<TensorView>&,
              const SigmoidGate::Out<TensorView>& dout, SigmoidGate::In<TensorView>& din,
              const SigmoidGate::Attrs& attrs) {
  using A = acc_t<T>;
  const Rows x(in.x), dg(dout.g.defined() ? dout.g : in.x), dk(dout.k.defined() ? dout.k : in.x);
  const bool by_g = dout.g.defined(), by_k = dout.k.defined();
  const Index d = x.cols;
  const A low = static_cast<A>(attrs.lower_bound), rest = static_cast<A>(1 - attrs.lower_bound);
  T* const dx = din.x.data<T>();
  parallel_for(x.count, row_grain(d, kGrain), [&](Index r0, Index r1) {
    for (Index r = r0; r < r1; ++r) {
      const T* __restrict from = x.row<T>(r);
      const A* __restrict of_g = dg.row<A>(by_g ? r : 0);
      const T* __restrict of_k = dk.row<T>(r);
      T* __restrict to = dx + r * d;
      for (Index c = 0; c < d; ++c) {
        const A v = convert<A>(from[c]), up = simd::sigmoid(v), down = simd::sigmoid(-v);
        const A over_f = low > 0 ? up / (low + rest * up) : A(1);
        const A through =
            (by_g ? of_g[c] * over_f : A(0)) - (by_k ? convert<A>(of_k[c]) * up : A(0));
        to[c] = convert<T>(rest * down * through);
      }
    }
  });
}

LS_KERNEL(SigmoidGate).reads("x g k", lies::rows).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
