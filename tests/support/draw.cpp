#include "tests/support/draw.h"

#include <cmath>

namespace ls::test {
namespace {

template <class Fn>
Tensor filled(const Shape& shape, Fn&& fn) {
  Tensor t = Tensor::empty(shape, DType::kF64);
  double* p = t.data<double>();
  for (Index i = 0; i < t.numel(); ++i) {
    p[i] = fn();
  }
  return t;
}

}  // namespace

Tensor Draw::normal(const Shape& shape, double scale) {
  return filled(shape, [&] { return scale * rng_.normal(); });
}

Tensor Draw::uniform(const Shape& shape, double lo, double hi) {
  return filled(shape, [&] { return rng_.uniform(lo, hi); });
}

Tensor Draw::extreme_gates(const Shape& shape) {
  return filled(shape, [&]() -> double {
    switch (rng_.below(8)) {
      case 0:
        return -300;
      case 1:
        return -20;
      case 2:
        return -rng_.uniform();
      case 3:
        return -1e-7;
      default:
        return 0;
    }
  });
}

Tensor Draw::unit_rows(const Shape& shape) {
  Tensor t = normal(shape);
  const Index n = shape[shape.rank() - 1];
  double* p = t.data<double>();
  for (Index r = 0; r < t.numel(); r += n) {
    double square = 0;
    for (Index i = 0; i < n; ++i) {
      square += p[r + i] * p[r + i];
    }
    for (Index i = 0; i < n; ++i) {
      p[r + i] /= std::sqrt(square);
    }
  }
  return t;
}

Tensor Draw::integers(const Shape& shape, Index lo, Index hi) {
  Tensor t = Tensor::empty(shape, DType::kI64);
  for (Index i = 0; i < t.numel(); ++i) {
    t.data<std::int64_t>()[i] = lo + rng_.below(hi - lo);
  }
  return t;
}

Tensor Draw::distinct(const Shape& shape) {
  std::vector<double> values;
  for (Index i = 0; i < shape.numel(); ++i) {
    values.push_back(0.25 * static_cast<double>(i - shape.numel() / 2) + 0.125);
  }
  rng_.shuffle(values);
  return Tensor::from(values, shape);
}

}  // namespace ls::test
