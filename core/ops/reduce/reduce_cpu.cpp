// Sum, mean or maximum over the middle of x as [outer, count, inner]. A task owns one piece of the
// middle of one outer index and up to kColumns inner columns; the partial results [pieces, outer,
// inner] are merged in the order of the pieces, whose number follows from the sizes alone.
#include "core/ops/reduce/reduce.h"

#include <cmath>
#include <limits>
#include <type_traits>

#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/elements.h"
#include "core/ops/reduce/axes.h"

namespace ls::ops {
namespace {

using Attrs = Reduce::Attrs;
using Kind = Reduce::Kind;

/// The input as [outer, count, inner] with the middle reduced: of x itself where the reduced axes
/// are neighbours, else of x with its axes in the order `order`, those that stay first.
struct Plan {
  Plan(const Shape& shape, const Attrs& a) {
    const auto reduced = reduced_axes(shape, a);
    int runs = 0;
    bool before = false;
    for (int i = 0; i < shape.rank(); ++i) {
      const Index n = shape[i];
      const bool r = reduced[i];
      (r ? count : before || runs > 0 ? inner : outer) *= n;
      runs += r && !before && n != 1;
      before = n == 1 ? before : r;
    }
    if (runs > 1) {
      for (const bool wanted : {false, true}) {
        for (int i = 0; i < shape.rank(); ++i) {
          if (reduced[i] == wanted) {
            order.push_back(i);
          }
        }
      }
      outer *= inner;
      inner = 1;
    }
  }
  /// f(i, at): the i-th element in the order `order` lies at `at` of a row-major tensor.
  template <class F>
  void for_ordered(const Shape& shape, F&& f) const {
    const Shape strides = shape.contiguous_strides();
    for (Index i = 0; i < shape.numel(); ++i) {
      Index rest = i, at = 0;
      for (auto axis = order.rbegin(); axis != order.rend(); ++axis) {
        at += rest % shape[*axis] * strides[*axis];
        rest /= shape[*axis];
      }
      f(i, at);
    }
  }
  Index outer = 1, count = 1, inner = 1;
  std::vector<int> order;
};

struct SumOf {
  double value = 0;
  template <class A>
  void take(A x, Index) {
    value += static_cast<double>(x);
  }
  void merge(const SumOf& later) { value += later.value; }
};

template <class A>
struct MaxOf {
  A value = -std::numeric_limits<A>::infinity();
  Index at = -1;
  void take(A x, Index i) {
    if (at < 0 || x > value || (std::isnan(x) && !std::isnan(value))) {
      value = x;
      at = i;
    }
  }
  void merge(const MaxOf& later) {
    if (later.at >= 0) {
      take(later.value, later.at);
    }
  }
};

/// One S for each kept element, [outer, inner]. The sum is cut in pieces by the sizes alone, so
/// that the result does not depend on the thread count.
template <class T, class S>
std::vector<S> reduce(const T* x, const Plan& p) {
  using A = acc_t<T>;
  constexpr Index kColumns = 1024;  // of `inner`, by one task
  const Index kept = p.outer * p.inner;
  const Index wanted =
      std::min(p.count * p.inner / 32768, (Index{1} << 18) / std::max<Index>(1, kept));
  const Index pieces = std::clamp<Index>(wanted, 1, 64);
  const Index blocks = (p.inner + kColumns - 1) / kColumns;
  std::vector<S> part(static_cast<std::size_t>(kept * pieces));
  const Index task_size = p.count / pieces * std::min(p.inner, kColumns);
  parallel_for(p.outer * pieces * blocks, row_grain(task_size, 16384), [&](Index t0, Index t1) {
    for (Index t = t0; t < t1; ++t) {
      const Index block = t % blocks, piece = t / blocks % pieces, o = t / blocks / pieces;
      const Index c0 = block * kColumns, c1 = std::min(p.inner, c0 + kColumns);
      const Index from = p.count * piece / pieces, to = p.count * (piece + 1) / pieces;
      const T* in = x + o * p.count * p.inner;
      S* s = part.data() + (piece * p.outer + o) * p.inner;
      if (std::is_same_v<S, SumOf> && p.inner == 1) {
        constexpr Index kRun = 256;  // summed in acc
        for (Index i = from; i < to; i += kRun) {
          A sum = 0;
          const Index end = std::min(to, i + kRun);
#pragma omp simd reduction(+ : sum)
          for (Index k = i; k < end; ++k) {
            sum += convert<A>(in[k]);
          }
          s->take(sum, 0);
        }
        continue;
      }
      for (Index i = from; i < to; ++i) {
        for (Index c = c0; c < c1; ++c) {
          s[c].take(convert<A>(in[i * p.inner + c]), i);
        }
      }
    }
  });
  for (Index piece = 1; piece < pieces; ++piece) {
    for (Index k = 0; k < kept; ++k) {
      part[k].merge(part[piece * kept + k]);
    }
  }
  part.resize(static_cast<std::size_t>(kept));
  return part;
}

template <class T>
struct Kernel {
  using A = acc_t<T>;

  static void forward(const Reduce::In<TensorView>& in, Reduce::Out<TensorView>& out,
                      const Attrs& a) {
    const Plan plan(in.x.shape(), a);
    const T* x = in.x.data<T>();
    std::vector<T> ordered;
    if (!plan.order.empty()) {
      ordered.resize(static_cast<std::size_t>(in.x.numel()));
      plan.for_ordered(in.x.shape(), [&](Index i, Index at) { ordered[i] = x[at]; });
      x = ordered.data();
    }
    T* y = out.y.data<T>();
    if (a.kind == Kind::kMax) {
      std::int64_t* index = out.index.data<std::int64_t>();
      for (const MaxOf<A>& m : reduce<T, MaxOf<A>>(x, plan)) {
        *y++ = convert<T>(m.value);
        *index++ = m.at;
      }
      return;
    }
    const auto count = static_cast<double>(plan.count);
    for (const SumOf& s : reduce<T, SumOf>(x, plan)) {
      *y++ = convert<T>(static_cast<A>(a.kind == Kind::kMean ? s.value / count : s.value));
    }
  }

  static void backward(const Reduce::In<TensorView>&, const Reduce::Out<TensorView>& out,
                       const Reduce::Out<TensorView>& dout, Reduce::In<TensorView>& din,
                       const Attrs& a) {
    const Plan plan(din.x.shape(), a);
    const T* const dy = dout.y.data<T>();
    const std::int64_t* const index = common::elements<std::int64_t>(out.index);
    T* const dx = din.x.data<T>();
    const A share = a.kind == Kind::kMean ? A(1.0 / static_cast<double>(plan.count)) : A(1);
    // Place i of the count elements of kept element k.
    const auto gradient = [&](Index k, Index i) {
      if (a.kind == Kind::kMax) {
        return index[k] == i ? dy[k] : T(0.0f);
      }
      return a.kind == Kind::kMean ? convert<T>(convert<A>(dy[k]) * share) : dy[k];
    };
    if (!plan.order.empty()) {
      plan.for_ordered(din.x.shape(), [&](Index i, Index at) {
        dx[at] = gradient(i / plan.count, i % plan.count);
      });
      return;
    }
    parallel_for(plan.outer * plan.count, row_grain(plan.inner, 16384), [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        const Index o = r / plan.count, i = r % plan.count;
        for (Index c = 0; c < plan.inner; ++c) {
          dx[r * plan.inner + c] = gradient(o * plan.inner + c, i);
        }
      }
    });
  }
};

LS_KERNEL(Reduce).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
