#include "core/ops/rope/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/ops/common/reference.h"

namespace ls::ops {

std::vector<double> rope_inv_freq(const RopeRule& r) {
  const Index pairs = r.rotary_dim / 2;
  const auto d = static_cast<double>(r.rotary_dim);
  double theta = r.theta;
  if (r.type == RopeType::kDynamic) {
    const double length = std::max(r.seq_len, r.max_position);
    theta *= std::pow(r.factor * length / r.max_position - (r.factor - 1), d / (d - 2));
  }
  std::vector<double> f;
  for (Index p = 0; p < pairs; ++p) {
    f.push_back(std::pow(theta, -2.0 * static_cast<double>(p) / d));
  }
  const double two_pi = 2 * std::numbers::pi;
  if (r.type == RopeType::kLinear) {
    for (double& v : f) {
      v /= r.factor;
    }
  } else if (r.type == RopeType::kYarn) {
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
      double& v = f[p];
      v = v * (1 - ramp) + v / r.factor * ramp;
    }
  } else if (r.type == RopeType::kLlama3) {
    const double length = r.original_max_position;
    for (double& v : f) {
      const double wave = two_pi / v;
      const double s =
          (length / wave - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor);
      if (wave > length / r.low_freq_factor) {
        v /= r.factor;
      } else if (wave >= length / r.high_freq_factor) {
        v = (1 - s) * v / r.factor + s * v;
      }
    }
  } else if (r.type == RopeType::kLongRope) {
    const std::vector<double>& by =
        r.seq_len > r.original_max_position ? r.long_factor : r.short_factor;
    LS_CHECK(static_cast<Index>(by.size()) == pairs, kConfig, "longrope: {} factors for {} pairs",
             by.size(), pairs);
    for (std::size_t p = 0; p < f.size(); ++p) {
      f[p] /= by[p];
    }
  }
  return f;
}

double rope_attention_factor(const RopeRule& r) {
  if (r.factor <= 1) {
    return 1;
  }
  if (r.type == RopeType::kYarn) {
    const auto m = [&](double scale) { return 0.1 * scale * std::log(r.factor) + 1; };
    return r.mscale != 0 && r.mscale_all_dim != 0 ? m(r.mscale) / m(r.mscale_all_dim) : m(1);
  }
  return r.type == RopeType::kLongRope
             ? std::sqrt(1 + std::log(r.factor) / std::log(r.original_max_position))
             : 1;
}

namespace {

using Op = Rope;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs& a, Bindings&) {
  const Index d = in.x.size(3);
  const Index turned = in.inv_freq.defined() ? 2 * in.inv_freq.numel() : a.rotary_dim;
  LS_CHECK(turned <= d, kShape, "rope: inv_freq or rotary_dim turn {} channels, a head of x has {}",
           turned, d);
}

template <class Real>
struct Reference {
  static Index pairs(const View<const double, 1>& inv_freq, Index d, const Op::Attrs& a) {
    if (inv_freq) {
      return inv_freq.size(0);
    }
    return (a.rotary_dim > 0 ? a.rotary_dim : d) / 2;
  }
  /// The turn of pair p at a position: first' = cos first - sin second, second' = sin first + cos
  /// second; backwards when `sign` is -1.
  static void turn(const Op::In<TensorView>& in, const TensorView& from, TensorView& to,
                   const Op::Attrs& a, double sign) {
    const View<const Real, 4> x(from);
    const View<const std::int64_t, 2> positions(in.positions);
    const View<const double, 1> inv_freq(in.inv_freq);
    const View<Real, 4> y(to);
    const Index d = x.size(3), n = pairs(inv_freq, d, a);
    // Channels of position (b, t), head h.
    const auto turn_head = [&](Index b, Index t, Index h) {
      for (Index p = 0; p < n; ++p) {
        const double frequency =
            inv_freq ? inv_freq(p) : std::pow(a.theta, -2.0 * double(p) / double(2 * n));
        const double angle = double(positions(b, t)) * frequency;
        const Real cosine = Real(a.attention_factor * std::cos(angle));
        const Real sine = Real(sign * a.attention_factor * std::sin(angle));
        const Index i = a.interleaved ? 2 * p : p, j = a.interleaved ? 2 * p + 1 : p + n;
        y(b, t, h, i) = cosine * x(b, t, h, i) - sine * x(b, t, h, j);
        y(b, t, h, j) = sine * x(b, t, h, i) + cosine * x(b, t, h, j);
      }
      for (Index c = 2 * n; c < d; ++c) {
        y(b, t, h, c) = x(b, t, h, c);
      }
    };
    for (Index b = 0; b < x.size(0); ++b) {
      for (Index t = 0; t < x.size(1); ++t) {
        for (Index h = 0; h < x.size(2); ++h) {
          turn_head(b, t, h);
        }
      }
    }
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    turn(in, in.x, out.y, a, 1);
  }
  // The transpose of a rotation is the rotation back.
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    turn(in, dout.y, din.x, a, -1);
  }
};

LS_OP(Rope, "rope", "rotary positions")
    .in("x[B,T,H,D] positions[B,T]:i64 inv_freq[P]:f64?")
    .out("y[B,T,H,D]")
    .saves("positions inv_freq")
    .no_grad("inv_freq")
    .bind(bind)
    .reference<Reference>()
    .cost(2, 3);

}  // namespace
}  // namespace ls::ops
