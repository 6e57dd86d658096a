#include "core/ops/rope/rope.h"

#include <cmath>
#include <map>
#include <numbers>

#include "core/backend/cpu/parallel_for.h"

namespace ls {

std::vector<double> rope_inv_freq(const RopeRule& r) {
  const Index pairs = r.rotary_dim / 2;
  const auto d = static_cast<double>(r.rotary_dim);
  double theta = r.theta;
  if (r.type == "dynamic") {
    const double length = std::max(r.seq_len, r.max_position);
    theta *= std::pow(r.factor * length / r.max_position - (r.factor - 1), d / (d - 2));
  }
  std::vector<double> f;
  for (Index p = 0; p < pairs; ++p) {
    f.push_back(std::pow(theta, -2.0 * static_cast<double>(p) / d));
  }
  const double two_pi = 2 * std::numbers::pi;
  if (r.type == "linear") {
    for (double& v : f) {
      v /= r.factor;
    }
  } else if (r.type == "yarn") {
    const auto dim = [&](double turns) {
      return d * std::log(r.original_max_position / (turns * two_pi)) / (2 * std::log(r.theta));
    };
    double low = dim(r.beta_fast), high = dim(r.beta_slow);
    if (r.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, d - 1);
    high += low == high ? 0.001 : 0;
    for (Index p = 0; p < pairs; ++p) {
      const double ramp = std::clamp((static_cast<double>(p) - low) / (high - low), 0.0, 1.0);
      double& v = f[static_cast<std::size_t>(p)];
      v = v * (1 - ramp) + v / r.factor * ramp;
    }
  } else if (r.type == "llama3") {
    const double length = r.original_max_position;
    for (double& v : f) {
      const double wave = two_pi / v;
      const double s =
          (length / wave - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor);
      v = wave < length / r.high_freq_factor  ? v
          : wave > length / r.low_freq_factor ? v / r.factor
                                              : (1 - s) * v / r.factor + s * v;
    }
  } else if (r.type == "longrope") {
    const std::vector<double>& by =
        r.seq_len > r.original_max_position ? r.long_factor : r.short_factor;
    LS_CHECK(static_cast<Index>(by.size()) == pairs, kConfig, "longrope: {} factors for {} pairs",
             by.size(), pairs);
    for (std::size_t p = 0; p < f.size(); ++p) {
      f[p] /= by[p];
    }
  } else {
    LS_CHECK(r.type == "default" || r.type == "dynamic", kConfig,
             "unknown rope type '{}'; known: default, linear, dynamic, yarn, llama3, longrope",
             r.type);
  }
  return f;
}

namespace {

// y = R(sign * angle) x. The transpose of a rotation is the rotation back.
template <class T>
void rotate(const Tensor& x_in, const Tensor& positions_in, const Tensor& inv_freq, Tensor& out,
            const Rope::Attrs& a, double sign) {
  using A = acc_t<T>;
  const Tensor x = x_in.contiguous(), positions = positions_in.contiguous();
  const Index tokens = x.size(0) * x.size(1), heads = x.size(2), d = x.size(3);
  std::vector<double> freq =
      inv_freq.defined()
          ? inv_freq.to_vector<double>()
          : rope_inv_freq({.theta = a.theta, .rotary_dim = a.rotary_dim > 0 ? a.rotary_dim : d});
  const auto pairs = static_cast<Index>(freq.size());
  LS_CHECK(2 * pairs <= d, kShape,
           "rope: inv_freq or rotary_dim turn {} channels, a head of x has {}", 2 * pairs, d);
  const std::int64_t* pos = positions.data<std::int64_t>();
  const T* xp = x.data<T>();
  T* yp = out.data<T>();
  // Rows of a batch mostly share their positions: one table of cosines and sines for each.
  std::map<std::int64_t, Index> row_of;
  for (Index t = 0; t < tokens; ++t) {
    row_of.emplace(pos[t], static_cast<Index>(row_of.size()));
  }
  std::vector<A> table(row_of.size() * static_cast<std::size_t>(2 * pairs));
  std::vector<Index> row(static_cast<std::size_t>(tokens));
  for (Index t = 0; t < tokens; ++t) {
    row[static_cast<std::size_t>(t)] = row_of.at(pos[t]);
  }
  std::vector<std::pair<std::int64_t, Index>> distinct(row_of.begin(), row_of.end());
  parallel_for(static_cast<Index>(distinct.size()), 64, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i) {
      A* line = table.data() + distinct[static_cast<std::size_t>(i)].second * 2 * pairs;
      for (Index p = 0; p < pairs; ++p) {
        const double angle = static_cast<double>(distinct[static_cast<std::size_t>(i)].first) *
                             freq[static_cast<std::size_t>(p)];
        line[p] = static_cast<A>(a.attention_factor * std::cos(angle));
        line[pairs + p] = static_cast<A>(sign * a.attention_factor * std::sin(angle));
      }
    }
  });
  const Index step = a.interleaved ? 2 : 1, other = a.interleaved ? 1 : pairs;
  parallel_for(
      tokens, std::max<Index>(1, 8192 / std::max<Index>(1, heads * d)), [&](Index t0, Index t1) {
        for (Index t = t0; t < t1; ++t) {
          const A* __restrict c = table.data() + row[static_cast<std::size_t>(t)] * 2 * pairs;
          const A* __restrict s = c + pairs;
          for (Index h = 0; h < heads; ++h) {
            const T* __restrict u = xp + (t * heads + h) * d;
            T* __restrict v = yp + (t * heads + h) * d;
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
void rope_forward(const Rope::In<Tensor>& in, Rope::Out<Tensor>& out, const Rope::Attrs& a) {
  rotate<T>(in.x, in.positions, in.inv_freq, out.y, a, 1);
}
template <class T>
void rope_backward(const Rope::In<Tensor>& in, const Rope::Out<Tensor>&,
                   const Rope::Out<Tensor>& dout, Rope::In<Tensor>& din, const Rope::Attrs& a) {
  rotate<T>(dout.y, in.positions, in.inv_freq, din.x, a, -1);
}

template <class Real>
struct RopeRef {
  static void forward(const Rope::In<Tensor>& in, Rope::Out<Tensor>& out, const Rope::Attrs& a) {
    rope_forward<Real>(in, out, a);
  }
  static void backward(const Rope::In<Tensor>& in, const Rope::Out<Tensor>& out,
                       const Rope::Out<Tensor>& dout, Rope::In<Tensor>& din, const Rope::Attrs& a) {
    rope_backward<Real>(in, out, dout, din, a);
  }
};

Cost rope_cost(const Rope::In<Tensor>& in, const Rope::Attrs&) {
  return {.bytes = 2.0 * static_cast<double>(in.x.bytes()),
          .flops = 3.0 * static_cast<double>(in.x.numel())};
}

LS_OP(Rope, "rope")
    .in("x[B,T,H,D] positions[B,T]:i64 inv_freq[P]:f64?")
    .out("y[B,T,H,D]")
    .saves("positions inv_freq")
    .no_grad("inv_freq")
    .summary("rotary positions")
    .reference<RopeRef>()
    .cost(rope_cost);

LS_KERNEL(Rope).forward<bf16>(&rope_forward<bf16>).backward<bf16>(&rope_backward<bf16>);

}  // namespace
}  // namespace ls
