#include "optim/clip.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/parallel_for.h"
#include "core/tensor/dispatch.h"

namespace ls::optim {
namespace {

constexpr Index kPiece = 1 << 14;  // sums are over fixed pieces: the same for any thread count

template <class T>
double piece_sum(const T* g, Index n, double p) {
  double sum = 0;
  if (p == 2) {
    constexpr int kLanes = 16;
    double lanes[kLanes] = {};
    Index i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      for (int l = 0; l < kLanes; ++l) {
        const double v = convert<double>(g[i + l]);
        lanes[l] += v * v;
      }
    }
    for (; i < n; ++i) {
      const double v = convert<double>(g[i]);
      sum += v * v;
    }
    for (const double l : lanes) {
      sum += l;
    }
    return sum;
  }
  for (Index i = 0; i < n; ++i) {
    const double v = std::abs(convert<double>(g[i]));
    sum = std::isinf(p) ? (std::isnan(v) ? v : std::max(sum, v)) : sum + std::pow(v, p);
  }
  return sum;
}

}  // namespace

double gradient_norm(std::span<const Tensor> grads, double p) {
  double total = 0;
  std::vector<double> sums;
  for (const Tensor& grad : grads) {
    if (!grad.defined()) {
      continue;
    }
    const Tensor g = grad.to(cpu()).contiguous();
    const Index n = g.numel(), pieces = (n + kPiece - 1) / kPiece;
    sums.assign(static_cast<std::size_t>(pieces), 0.0);
    dispatch_float(g.dtype(), [&]<class T>() {
      const T* x = g.data<T>();
      parallel_for(pieces, 2, [&](Index b, Index e) {
        for (Index i = b; i < e; ++i) {
          sums[i] = piece_sum(x + i * kPiece, std::min(kPiece, n - i * kPiece), p);
        }
      });
    });
    for (const double s : sums) {
      total = std::isinf(p) ? (std::isnan(s) || s > total ? s : total) : total + s;
    }
  }
  return std::isinf(p) ? total : p == 2 ? std::sqrt(total) : std::pow(total, 1 / p);
}

double clip_factor(double norm, double max_norm) {
  return std::min(1.0, max_norm / (norm + 1e-6));
}

double clip_grad_norm_(std::span<Tensor> grads, double max_norm, double p) {
  const double norm = gradient_norm(grads, p);
  const double factor = clip_factor(norm, max_norm);
  if (factor < 1) {
    for (Tensor& g : grads) {
      if (g.defined()) {
        g.mul_(factor);
      }
    }
  }
  return norm;
}

}  // namespace ls::optim
