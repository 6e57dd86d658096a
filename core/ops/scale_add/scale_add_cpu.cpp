// y = base + x f, f = factor + gain spread over the channels [d]. Forward: a thread owns rows and
// one f. Backward: dx = dy f, dbase = dy, and sums of dy x over groups and, for the gain, over
// rows: a thread owns whole pieces of the rows, of which there are kPieces whatever the thread
// count, each with a sum [d] of its own.
#include <algorithm>
#include <vector>

#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/elements.h"
#include "core/ops/common/rms_rows.h"
#include "core/ops/scale_add/scale_add.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

constexpr Index kGrain = 16384;  // elements

/// Inputs of one call.
template <class T>
struct Call {
  using A = acc_t<T>;
  Rows x, base, factor;
  Index d, width = 0;  ///< channels; those of one factor, 0: there is none
  bool adds;
  std::vector<A> gain;  ///< of each channel, 0 where there is none
  explicit Call(const ScaleAdd::In<TensorView>& in)
      : x(in.x),
        base(in.base.defined() ? in.base : in.x),
        factor(in.factor.defined() ? in.factor : in.x),
        d(x.cols),
        adds(in.base.defined()),
        gain(static_cast<std::size_t>(d), A(0)) {
    if (in.factor.defined()) {
      width = d / in.factor.size(-1);
    }
    if (in.gain.defined()) {
      const A* const given = in.gain.template data<A>();
      const Index group = d / in.gain.numel();
      for (Index c = 0; c < d; ++c) {
        gain[static_cast<std::size_t>(c)] = given[c / group];
      }
    }
  }
  /// f of row r, [d]: `to`, or the gains themselves.
  const A* factors(Index r, A* to) const {
    if (width == 0) {
      return gain.data();
    }
    const A* __restrict from = factor.row<A>(r);
    const A* __restrict constant = gain.data();
    for (Index c = 0; width == 1 && c < d; ++c) {
      to[c] = constant[c] + from[c];
    }
    for (Index g = 0; width > 1 && g < d / width; ++g) {
      for (Index c = g * width; c < (g + 1) * width; ++c) {
        to[c] = constant[c] + from[g];
      }
    }
    return to;
  }
};

template <class T>
void forward(const ScaleAdd::In<TensorView>& in, ScaleAdd::Out<TensorView>& out,
             const ScaleAdd::Attrs&) {
  using A = acc_t<T>;
  const Call<T> call(in);
  const Index d = call.d;
  T* const y = out.y.data<T>();
  parallel_for(call.x.count, row_grain(d, kGrain), [&](Index r0, Index r1) {
    std::vector<A> buffer(static_cast<std::size_t>(d));
    for (Index r = r0; r < r1; ++r) {
      const A* __restrict f = call.factors(r, buffer.data());
      const T* __restrict x = call.x.template row<T>(r);
      const T* __restrict base = call.base.template row<T>(r);
      T* __restrict to = y + r * d;
      for (Index c = 0; c < d; ++c) {
        const A product = convert<A>(x[c]) * f[c];
        to[c] = convert<T>(call.adds ? convert<A>(base[c]) + product : product);
      }
    }
  });
}

/// to = sums of x [d] over groups of `width`.
template <class A>
void sum_groups(Index d, Index width, const A* __restrict x, A* __restrict to) {
  if (width == 1) {
    std::copy(x, x + d, to);
    return;
  }
  for (Index g = 0; g < d / width; ++g) {
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Index c = g * width; c < (g + 1) * width; ++c) {
      sum += x[c];
    }
    to[g] = sum;
  }
}

template <class T>
void backward(const ScaleAdd::In<TensorView>& in, const ScaleAdd::Out<TensorView>&,
              const ScaleAdd::Out<TensorView>& dout, ScaleAdd::In<TensorView>& din,
              const ScaleAdd::Attrs&) {
  using A = acc_t<T>;
  using rms::kPieces;
  const Call<T> call(in);
  const Rows dy(dout.y);
  const RowsOut<T> dx(din.x);
  const Index d = call.d, width = call.width;
  A* const dfactor = common::elements<A>(din.factor);
  std::vector<A> sums(static_cast<std::size_t>(kPieces * d));
  parallel_for(kPieces, row_grain(call.x.count * d, kGrain * kPieces), [&](Index p0, Index p1) {
    std::vector<A> buffer(static_cast<std::size_t>(2 * d));
    A* __restrict const product = buffer.data() + d;
    for (Index p = p0; p < p1; ++p) {
      A* __restrict const sum = sums.data() + p * d;
      for (Index r = call.x.count * p / kPieces; r < call.x.count * (p + 1) / kPieces; ++r) {
        const T* __restrict x = call.x.template row<T>(r);
        const T* __restrict g = dy.row<T>(r);
        for (Index c = 0; c < d; ++c) {
          product[c] = convert<A>(g[c]) * convert<A>(x[c]);
          sum[c] += product[c];
        }
        if (dfactor) {
          sum_groups(d, width, product, dfactor + r * (d / width));
        }
        if (dx.defined()) {
          const A* __restrict f = call.factors(r, buffer.data());
          T* __restrict to = dx.row(r);
          for (Index c = 0; c < d; ++c) {
            to[c] = convert<T>(convert<A>(g[c]) * f[c]);
          }
        }
      }
    }
  });
  if (din.base.defined()) {
    T* const dbase = din.base.data<T>();
    parallel_for(dy.count, row_grain(d, kGrain), [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        std::copy_n(dy.row<T>(r), d, dbase + r * d);
      }
    });
  }
  if (din.gain.defined()) {
    std::vector<A> by_channel(static_cast<std::size_t>(d));
    rms::add_pieces(sums.data(), d, by_channel.data());
    A* const to = common::zeroed(din.gain).template data<A>();
    const Index group = d / din.gain.numel();
    for (Index c = 0; c < d; ++c) {
      to[c / group] += by_channel[static_cast<std::size_t>(c)];
    }
  }
}

LS_KERNEL(ScaleAdd).reads("x factor base y", lies::rows).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
