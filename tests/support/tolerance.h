#pragma once
// How far results may be apart: one table for every op and type.
#include <string>

#include "core/tensor/tensor.h"

namespace ls::test {

/// Of a result that was rounded to `t` and sums `terms` products in its acc type: relative to the
/// size of the result, see `difference`.
double tolerance(DType t, Index terms = 1);

/// Empty when every element agrees: floats within tolerance * (|want| + rms of want), integers
/// exactly, Inf with Inf of the same sign, NaN with nothing. Else the worst element, both values
/// and the relative rms error. Undefined agrees with undefined only, and shapes are compared.
std::string difference(const Tensor& got, const Tensor& want, double tolerance);

/// The same bit for bit; types are compared too.
std::string bit_difference(const Tensor& got, const Tensor& want);

}  // namespace ls::test
