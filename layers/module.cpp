#include "layers/module.h"

#include <algorithm>
#include <cmath>

#include "autograd/call.h"
#include "autograd/functional.h"
#include "core/base/parallel_for.h"
#include "core/ops/add_rms_norm/add_rms_norm.h"
#include "core/ops/layer_norm/layer_norm.h"
#include "core/ops/linear/linear.h"
#include "core/ops/rms_norm/rms_norm.h"
#include "core/tensor/dispatch.h"
#include "layers/shapes_only.h"

namespace ls::layers {

Init Init::constant(double value) {
  return {[value](Rng&, std::span<double> x) { std::fill(x.begin(), x.end(), value); }};
}

Init Init::normal(double std) {
  return {[std](Rng& rng, std::span<double> x) {
    rng.normal(x);
    for (double& v : x) {
      v *= std;
    }
  }};
}

Init Init::uniform(double low, double high) {
  return {[low, high](Rng& rng, std::span<double> x) {
    for (double& v : x) {
      v = low + (high - low) * rng.uniform();
    }
  }};
}

Init Init::orthogonal(Index n) {
  return {.fill =
              [n](Rng& rng, std::span<double> x) {
                const auto size = static_cast<std::size_t>(n);
                for (std::size_t block = 0; block + size * size <= x.size(); block += size * size) {
                  rng.normal(x.subspan(block, size * size));
                  // Modified Gram-Schmidt over the rows.
                  for (std::size_t i = 0; i < size; ++i) {
                    double* row = &x[block + i * size];
                    for (int pass = 0; pass < 2; ++pass) {
                      for (std::size_t j = 0; j < i; ++j) {
                        const double* other = &x[block + j * size];
                        double dot = 0;
                        for (std::size_t c = 0; c < size; ++c) {
                          dot += row[c] * other[c];
                        }
                        for (std::size_t c = 0; c < size; ++c) {
                          row[c] -= dot * other[c];
                        }
                      }
                    }
                    double norm = 0;
                    for (std::size_t c = 0; c < size; ++c) {
                      norm += row[c] * row[c];
                    }
                    for (std::size_t c = 0; c < size; ++c) {
                      row[c] /= std::sqrt(norm);
                    }
                  }
                }
              },
          .whole = true};
}

namespace {
thread_local int shapes_only = 0;

/// Zeros of a shape in the memory of one element.
Tensor shape_without_memory(const Shape& shape, DType dtype) {
  Shape ones = shape;
  for (int i = 0; i < ones.rank(); ++i) {
    ones[i] = 1;
  }
  return Tensor::zeros(ones, dtype).expand(shape);
}
}  // namespace

ShapesOnly::ShapesOnly() {
  ++shapes_only;
}
ShapesOnly::~ShapesOnly() {
  --shapes_only;
}

ag::Var Scope::param(const std::string& name, const Shape& shape, const Init& init,
                     ParamOptions options) const {
  const std::string full = path_.empty() ? name : path_ + "." + name;
  if (shapes_only > 0) {
    return set_->add(full, shape_without_memory(shape, dtype_), options.decay);
  }
  constexpr Index kBlock = 4096;
  Tensor value = Tensor::empty(shape, dtype_);
  const Index n = value.numel(), block = init.whole ? std::max<Index>(1, n) : kBlock;
  const std::uint64_t stream = stream_id("init/" + full);
  dispatch_float(dtype_, [&]<class T>() {
    T* const to = value.data<T>();
    parallel_for((n + block - 1) / block, 1, [&](Index first, Index last) {
      std::vector<double> drawn;
      for (Index i = first; i < last; ++i) {
        drawn.assign(static_cast<std::size_t>(std::min(block, n - i * block)), 0.0);
        Rng rng(seed_, stream, static_cast<std::uint64_t>(i));
        init.fill(rng, drawn);
        std::transform(drawn.begin(), drawn.end(), to + i * block, convert<T, double>);
      }
    });
  });
  return set_->add(full, std::move(value), options.decay);
}

Linear::Linear(const Scope& scope, Index in, Index out, const Init& init, bool bias,
               ParamOptions weight)
    : weight_(scope.param("weight", {out, in}, init, weight)) {
  if (bias) {
    bias_ = scope.param("bias", {out}, Init::constant(0), {.decay = false});
  }
}

ag::Var Linear::operator()(const ag::Var& x) const {
  return ag::call<ops::Linear>({.x = x, .weight = ag::cast(weight_, x.dtype()), .bias = bias_}).y;
}

Norm::Norm(const Scope& scope, NormKind kind, Index width, double eps)
    : kind_(kind),
      eps_(eps),
      weight_(scope.param("weight", {width}, Init::constant(1), {.decay = false})) {
  if (kind_ == NormKind::kLayer) {
    bias_ = scope.param("bias", {width}, Init::constant(0), {.decay = false});
  }
}

ag::Var Norm::operator()(const ag::Var& x) const {
  if (kind_ == NormKind::kLayer) {
    return ag::call<ops::LayerNorm>({.x = x, .weight = weight_, .bias = bias_}, {.eps = eps_}).y;
  }
  return ag::call<ops::RmsNorm>({.x = x, .weight = weight_}, {.eps = eps_}).y;
}

Norm::Added Norm::add(const ag::Var& residual, const ag::Var& x) const {
  if (kind_ == NormKind::kLayer) {
    const ag::Var sum = ag::add(residual, x);
    return {sum, (*this)(sum)};
  }
  const auto out =
      ag::call<ops::AddRmsNorm>({.x = x, .residual = residual, .weight = weight_}, {.eps = eps_});
  return {out.sum, out.y};
}

}  // namespace ls::layers
