#include "layers/mixers/rwkv.h"

#include <cmath>

#include "autograd/functional.h"
#include "core/ops/scale_add/scale_add.h"

namespace ls::layers {

Init by_place(std::function<double(Index)> value) {
  return {.fill =
              [value = std::move(value)](Rng&, std::span<double> x) {
                for (std::size_t i = 0; i < x.size(); ++i) {
                  x[i] = value(static_cast<Index>(i));
                }
              },
          .whole = true};
}

double block_ratio(Index layer, Index depth) {
  return depth > 1 ? static_cast<double>(layer) / static_cast<double>(depth - 1) : 0.0;
}

TokenMix::TokenMix(const Scope& scope, const std::string& name, Index width, double power,
                   double less)
    : share_(scope.param(name, {width}, by_place([=](Index i) {
                           const double place = static_cast<double>(i) / static_cast<double>(width);
                           return 1 - std::pow(place, power) - less;
                         }),
                         {.decay = false})) {}

ag::Var TokenMix::operator()(const ag::Var& x, const ag::Var& difference,
                             const ag::Var& more) const {
  const ag::Var factor = more.defined() ? ag::cast(more, acc_dtype(more.dtype())) : ag::Var();
  return ag::call<ops::ScaleAdd>({.x = difference, .factor = factor, .gain = share_, .base = x}).y;
}

}  // namespace ls::layers
