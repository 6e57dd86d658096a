// The k greatest of each row of d, in descending order, equal ones by their place. Forward: a
// thread owns rows and an order [d] of one of them. Backward: dy goes back to the places, on one
// thread.
#include "core/ops/top_k/top_k.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/elements.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

template <class T>
struct Kernel {
  using A = acc_t<T>;

  static void forward(const TopK::In<TensorView>& in, TopK::Out<TensorView>& out,
                      const TopK::Attrs& a) {
    const Rows x(in.x);
    const Index d = x.cols, k = a.k;
    T* values = out.values.data<T>();
    std::int64_t* index = out.index.data<std::int64_t>();
    parallel_for(x.count, row_grain(d, 2048), [&](Index r0, Index r1) {
      std::vector<std::int64_t> order(static_cast<std::size_t>(d));
      for (Index r = r0; r < r1; ++r) {
        const T* xp = x.row<T>(r);
        std::iota(order.begin(), order.end(), 0);
        const auto before = [xp](std::int64_t i, std::int64_t j) {
          const A p = convert<A>(xp[i]), q = convert<A>(xp[j]);
          if (std::isnan(p) || std::isnan(q)) {
            return std::isnan(p) != std::isnan(q) ? std::isnan(p) : i < j;
          }
          return p != q ? p > q : i < j;
        };
        std::partial_sort(order.begin(), order.begin() + k, order.end(), before);
        for (Index i = 0; i < k; ++i) {
          index[r * k + i] = order[i];
          values[r * k + i] = xp[order[i]];
        }
      }
    });
  }

  static void backward(const TopK::In<TensorView>&, const TopK::Out<TensorView>& out,
                       const TopK::Out<TensorView>& dout, TopK::In<TensorView>& din,
                       const TopK::Attrs& a) {
    const Rows dy(dout.values);
    const Index d = din.x.size(-1);
    const std::int64_t* index = out.index.data<std::int64_t>();
    T* dx = common::zeroed(din.x).template data<T>();
    for (Index r = 0; r < dy.count; ++r) {
      for (Index i = 0; i < a.k; ++i) {
        dx[r * d + index[r * a.k + i]] = dy.row<T>(r)[i];
      }
    }
  }
};

LS_KERNEL(TopK).reads("x values", lies::rows).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
