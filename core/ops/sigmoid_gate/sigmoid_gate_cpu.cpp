// k = (1 - low) sigmoid(-x), g = log(low + (1 - low) sigmoid(x)), for large f as log(1 - k). A
// thread owns rows; where gradients of bounds are summed, whole pieces of the rows, of which there
// are kPieces whatever the thread count, each with a sum [d] of its own.
#include <algorithm>
#include <vector>

#include "core/backend/cpu/simd_math.h"
#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/rms_rows.h"
#include "core/ops/sigmoid_gate/sigmoid_gate.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

constexpr Index kGrain = 4096;  // elements

/// Of each channel.
template <class A>
struct Bounds {
  std::vector<A> low, rest;  ///< rest = 1 - low
  bool positive = true;
  Bounds(const SigmoidGate::In<TensorView>& in, const SigmoidGate::Attrs& attrs, Index d)
      : low(static_cast<std::size_t>(d), static_cast<A>(attrs.lower_bound)),
        rest(static_cast<std::size_t>(d), static_cast<A>(1 - attrs.lower_bound)) {
    if (!in.low.defined()) {
      positive = attrs.lower_bound > 0;
      return;
    }
    std::copy_n(in.low.template data<A>(), d, low.begin());
    std::transform(low.begin(), low.end(), rest.begin(), [](A l) { return 1 - l; });
  }
};

template <class T>
void forward(const SigmoidGate::In<TensorView>& in, SigmoidGate::Out<TensorView>& out,
             const SigmoidGate::Attrs& attrs) {
  using A = acc_t<T>;
  const Rows x(in.x);
  const Index d = x.cols;
  const Bounds<A> bounds(in, attrs, d);
  const A *const low = bounds.low.data(), *const rest = bounds.rest.data();
  A* const g = out.g.data<A>();
  T* const k = out.k.data<T>();
  const auto run = [&](auto&& log_small) {
    parallel_for(x.count, row_grain(d, kGrain), [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        const T* __restrict from = x.row<T>(r);
        A* __restrict to_g = g + r * d;
        T* __restrict to_k = k + r * d;
        for (Index c = 0; c < d; ++c) {
          const A v = convert<A>(from[c]), open = rest[c] * simd::sigmoid(-v);
          const A by_k = simd::log1p(-open), by_f = log_small(v, c);
          to_g[c] = open < A(0.5) ? by_k : by_f;
          to_k[c] = convert<T>(open);
        }
      }
    });
  };
  if (bounds.positive) {
    run([&](A v, Index c) { return simd::log(low[c] + rest[c] * simd::sigmoid(v)); });
  } else {
    run([](A v, Index) { return simd::log_sigmoid(v); });
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
  const Bounds<A> bounds(in, attrs, d);
  const A *const low = bounds.low.data(), *const rest = bounds.rest.data();
  const bool positive = bounds.positive;
  T* const dx = din.x.defined() ? din.x.data<T>() : nullptr;
  const auto to_x = [&](Index r0, Index r1) {
    for (Index r = r0; r < r1; ++r) {
      const T* __restrict from = x.row<T>(r);
      const A* __restrict of_g = dg.row<A>(by_g ? r : 0);
      const T* __restrict of_k = dk.row<T>(r);
      T* __restrict to = dx + r * d;
      for (Index c = 0; c < d; ++c) {
        const A v = convert<A>(from[c]), up = simd::sigmoid(v), down = simd::sigmoid(-v);
        const A over_f = positive ? up / (low[c] + rest[c] * up) : A(1);
        const A through =
            (by_g ? of_g[c] * over_f : A(0)) - (by_k ? convert<A>(of_k[c]) * up : A(0));
        to[c] = convert<T>(rest[c] * down * through);
      }
    }
  };
  if (dx) {
    parallel_for(x.count, row_grain(d, kGrain), to_x);
  }
  if (!din.low.defined()) {
    return;
  }
  using rms::kPieces;
  std::vector<A> sums(static_cast<std::size_t>(kPieces * d));
  parallel_for(kPieces, row_grain(x.count * d, kGrain * kPieces), [&](Index p0, Index p1) {
    for (Index p = p0; p < p1; ++p) {
      A* __restrict const sum = sums.data() + p * d;
      for (Index r = x.count * p / kPieces; r < x.count * (p + 1) / kPieces; ++r) {
        const T* __restrict from = x.row<T>(r);
        const A* __restrict of_g = dg.row<A>(by_g ? r : 0);
        const T* __restrict of_k = dk.row<T>(r);
        for (Index c = 0; c < d; ++c) {
          const A v = convert<A>(from[c]), f = low[c] + rest[c] * simd::sigmoid(v);
          const A through = (by_g ? of_g[c] / f : A(0)) - (by_k ? convert<A>(of_k[c]) : A(0));
          sum[c] += simd::sigmoid(-v) * through;
        }
      }
    }
  });
  rms::add_pieces(sums.data(), d, din.low.data<A>());
}

LS_KERNEL(SigmoidGate).reads("x g k", lies::rows).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
