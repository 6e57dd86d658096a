// Running sums, in double, along the middle axis of x as [outer, n, inner]. One task owns up to
// kColumns neighbouring columns of one outer index from end to end, with a running sum of each. The
// gradient is the running sum of dy from the other end.
#include "core/ops/cumsum/cumsum.h"

#include <algorithm>
#include <vector>

#include "core/base/parallel_for.h"
#include "core/op/declare.h"

namespace ls::ops {
namespace {

template <class T>
void running_sums(const TensorView& x, TensorView& out, int axis, bool reverse) {
  using A = acc_t<T>;
  constexpr Index kColumns = 256;  // summed side by side
  axis += axis < 0 ? x.rank() : 0;
  Index outer = 1, inner = 1;
  for (int i = 0; i < x.rank(); ++i) {
    (i < axis ? outer : inner) *= i == axis ? 1 : x.size(i);
  }
  const Index n = x.size(axis), blocks = (inner + kColumns - 1) / kColumns;
  const T* from = x.data<T>();
  T* to = out.data<T>();
  const Index task = n * std::min(inner, kColumns);
  parallel_for(outer * blocks, row_grain(task, 16384), [&](Index t0, Index t1) {
    std::vector<double> sums;
    for (Index t = t0; t < t1; ++t) {
      const Index c0 = t % blocks * kColumns, columns = std::min(inner - c0, kColumns);
      const Index base = t / blocks * n * inner + c0;
      sums.assign(static_cast<std::size_t>(columns), 0.0);
      for (Index i = 0; i < n; ++i) {
        const Index row = base + (reverse ? n - 1 - i : i) * inner;
        for (Index c = 0; c < columns; ++c) {
          double& sum = sums[c];
          sum += static_cast<double>(convert<A>(from[row + c]));
          to[row + c] = convert<T>(static_cast<A>(sum));
        }
      }
    }
  });
}

template <class T>
struct Kernel {
  static void forward(const Cumsum::In<TensorView>& in, Cumsum::Out<TensorView>& out,
                      const Cumsum::Attrs& a) {
    running_sums<T>(in.x, out.y, a.axis, a.reverse);
  }
  static void backward(const Cumsum::In<TensorView>&, const Cumsum::Out<TensorView>&,
                       const Cumsum::Out<TensorView>& dout, Cumsum::In<TensorView>& din,
                       const Cumsum::Attrs& a) {
    running_sums<T>(dout.y, din.x, a.axis, !a.reverse);
  }
};

LS_KERNEL(Cumsum).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
