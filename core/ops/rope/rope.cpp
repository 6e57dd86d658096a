#include "core/ops/rope/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

namespace ls::ops {

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

void bind(const Rope::In<Tensor>& in, const Rope::Attrs& a, Bindings&) {
  const Index d = in.x.size(3);
  const Index turned = in.inv_freq.defined() ? 2 * in.inv_freq.numel() : a.rotary_dim;
  LS_CHECK(turned <= d, kShape, "rope: inv_freq or rotary_dim turn {} channels, a head of x has {}",
           turned, d);
}

template <class Real>
struct Reference {
  /// The turn of pair p at a position: first' = cos first - sin second, second' = sin first + cos
  /// second; backwards when `sign` is -1.
  static void turn(const Rope::In<Tensor>& in, const Tensor& from, Tensor& to, const Rope::Attrs& a,
                   double sign) {
    const std::vector<Real> x = from.to_vector<Real>();
    const std::vector<std::int64_t> positions = in.positions.to_vector<std::int64_t>();
    const Index heads = from.size(2), d = from.size(3);
    const Index turned = in.inv_freq.defined() ? 2 * in.inv_freq.numel()
                         : a.rotary_dim > 0    ? a.rotary_dim
                                               : d;
    const Index pairs = turned / 2;
    Real* y = to.data<Real>();
    for (Index row = 0; row < from.numel() / std::max<Index>(1, d); ++row) {
      const auto position = static_cast<double>(positions[static_cast<std::size_t>(row / heads)]);
      const Real* xp = x.data() + row * d;
      Real* yp = y + row * d;
      for (Index p = 0; p < pairs; ++p) {
        const double frequency =
            in.inv_freq.defined()
                ? in.inv_freq.slow_at(p)
                : std::pow(a.theta, -2.0 * static_cast<double>(p) / static_cast<double>(turned));
        const double angle = position * frequency;
        const Real cosine = static_cast<Real>(a.attention_factor * std::cos(angle));
        const Real sine = static_cast<Real>(sign * a.attention_factor * std::sin(angle));
        const Index first = a.interleaved ? 2 * p : p,
                    second = a.interleaved ? 2 * p + 1 : p + pairs;
        yp[first] = cosine * xp[first] - sine * xp[second];
        yp[second] = sine * xp[first] + cosine * xp[second];
      }
      for (Index c = 2 * pairs; c < d; ++c) {
        yp[c] = xp[c];
      }
    }
  }
  static void forward(const Rope::In<Tensor>& in, Rope::Out<Tensor>& out, const Rope::Attrs& a) {
    turn(in, in.x, out.y, a, 1);
  }
  // The transpose of a rotation is the rotation back.
  static void backward(const Rope::In<Tensor>& in, const Rope::Out<Tensor>&,
                       const Rope::Out<Tensor>& dout, Rope::In<Tensor>& din, const Rope::Attrs& a) {
    turn(in, dout.y, din.x, a, -1);
  }
};

Cost cost(const Rope::In<Tensor>& in, const Rope::Attrs&) {
  return {.bytes = 2.0 * in.x.bytes(), .flops = 3.0 * in.x.numel()};
}

LS_OP(Rope, "rope", "rotary positions")
    .in("x[B,T,H,D] positions[B,T]:i64 inv_freq[P]:f64?")
    .out("y[B,T,H,D]")
    .saves("positions inv_freq")
    .no_grad("inv_freq")
    .strided_grad("x")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
