#pragma once
// What tests of decayed_linear and delta_rule by their algebra share.
#include <cmath>
#include <span>
#include <vector>

#include "core/op/op.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/delta_rule/delta_rule.h"

namespace ls::test::recurrences {

using Linear = ops::DecayedLinear::In<Tensor>;
using Delta = ops::DeltaRule::In<Tensor>;

/// Largest difference; infinite where shapes differ or something is not a number.
inline double difference(const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape())) {
    return INFINITY;
  }
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double d = std::abs(x[i] - y[i]);
    if (!(d <= worst)) {
      worst = std::isnan(d) ? INFINITY : d;
    }
  }
  return worst;
}

struct Way {
  DType type;
  Form form;
  double tolerance;
};
inline const Way kWays[] = {
    {DType::kF64, Form::kRecurrent, 1e-12}, {DType::kF64, Form::kChunk, 1e-12},
    {DType::kF64, Form::kParallel, 1e-12},  {DType::kF32, Form::kRecurrent, 2e-5},
    {DType::kF32, Form::kChunk, 2e-5},      {DType::kF32, Form::kParallel, 2e-5}};

template <class Op, class In>
typename Op::template Out<Tensor> run(const Way& way, const In& in, typename Op::Attrs attrs = {}) {
  attrs.form = way.form;
  std::vector<Tensor> list = ls::detail::spread_members<Tensor>(in);
  for (Tensor& t : list) {
    t = t.defined() && is_float(t.dtype()) ? t.to(way.type) : t;
  }
  return call_op<Op>(ls::detail::gather_members<In>(std::span<const Tensor>(list)), attrs);
}

inline Tensor constant(const Shape& shape, double x) {
  return Tensor::full(shape, DType::kF64, x);
}

/// Rows of the unit matrix, [1,n,1,n]: n orthonormal keys.
inline Tensor unit_keys(Index n) {
  Tensor k = Tensor::zeros({1, n, 1, n}, DType::kF64);
  for (Index i = 0; i < n; ++i) {
    k.data<double>()[i * n + i] = 1;
  }
  return k;
}

}  // namespace ls::test::recurrences
