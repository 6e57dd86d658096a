// Pairs of channels of x [B,T,H,D] are turned by position * frequency. A table [positions, 2,
// pairs] holds cosines and sines of every different position, made in double; then a thread owns
// tokens.
#include "core/ops/rope/rope.h"

#include <cmath>
#include <map>

#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

// y = R(sign * angle) x. The transpose of a rotation is the rotation back.
template <class T>
void rotate(const TensorView& x, const TensorView& positions, const TensorView& inv_freq,
            TensorView& out, const Rope::Attrs& a, double sign) {
  using A = acc_t<T>;
  const Index tokens = x.size(0) * x.size(1), heads = x.size(2), d = x.size(3);
  std::vector<double> freq =
      inv_freq.defined()
          ? std::vector<double>(inv_freq.data<double>(), inv_freq.data<double>() + inv_freq.numel())
          : rope_inv_freq({.theta = a.theta, .rotary_dim = a.rotary_dim > 0 ? a.rotary_dim : d});
  const auto pairs = static_cast<Index>(freq.size());
  const std::int64_t* pos = positions.data<std::int64_t>();
  const T* xp = x.data<T>();
  const RowsOut<T> y(out);
  // Rows of a batch mostly share their positions: one table of cosines and sines for each.
  std::map<std::int64_t, Index> row_of;
  for (Index t = 0; t < tokens; ++t) {
    row_of.emplace(pos[t], static_cast<Index>(row_of.size()));
  }
  std::vector<A> table(row_of.size() * static_cast<std::size_t>(2 * pairs));
  std::vector<Index> row(static_cast<std::size_t>(tokens));
  for (Index t = 0; t < tokens; ++t) {
    row[t] = row_of.at(pos[t]);
  }
  std::vector<std::pair<std::int64_t, Index>> distinct(row_of.begin(), row_of.end());
  parallel_for(static_cast<Index>(distinct.size()), 64, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i) {
      A* line = table.data() + distinct[i].second * 2 * pairs;
      for (Index p = 0; p < pairs; ++p) {
        const double angle = static_cast<double>(distinct[i].first) * freq[p];
        line[p] = static_cast<A>(a.attention_factor * std::cos(angle));
        line[pairs + p] = static_cast<A>(sign * a.attention_factor * std::sin(angle));
      }
    }
  });
  const Index step = a.interleaved ? 2 : 1, other = a.interleaved ? 1 : pairs;
  parallel_for(tokens, row_grain(heads * d), [&](Index t0, Index t1) {
    for (Index t = t0; t < t1; ++t) {
      const A* __restrict c = table.data() + row[t] * 2 * pairs;
      const A* __restrict s = c + pairs;
      for (Index h = 0; h < heads; ++h) {
        const T* __restrict u = xp + (t * heads + h) * d;
        T* __restrict v = y.row(t * heads + h);
        for (Index p = 0; p < pairs; ++p) {
          const A first = convert<A>(u[p * step]), second = convert<A>(u[p * step + other]);
          v[p * step] = convert<T>(first * c[p] - second * s[p]);
          v[p * step + other] = convert<T>(second * c[p] + first * s[p]);
        }
        std::copy(u + 2 * pairs, u + d, v + 2 * pairs);
      }
    }
  });
}

template <class T>
void forward(const Rope::In<TensorView>& in, Rope::Out<TensorView>& out, const Rope::Attrs& a) {
  rotate<T>(in.x, in.positions, in.inv_freq, out.y, a, 1);
}
template <class T>
void backward(const Rope::In<TensorView>& in, const Rope::Out<TensorView>&,
              const Rope::Out<TensorView>& dout, Rope::In<TensorView>& din, const Rope::Attrs& a) {
  rotate<T>(dout.y, in.positions, in.inv_freq, din.x, a, -1);
}

LS_KERNEL(Rope).strided_grad("x").types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
