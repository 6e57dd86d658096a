#pragma once
#include "core/base/types.h"

namespace ls {

/// Standard normals from uniform numbers, n pairs from n pairs:
/// out[2i], out[2i + 1] = sqrt(-2 log(1 - u[i])) times cos, sin of 2 pi v[i] rounded to double.
/// Logarithm, sine and cosine are off by less than one unit in the last place, a result by less
/// than three. Results are the same bits on every machine and for every n.
/// @shape  u,v [n], in [0, 1) and multiples of 2^-53  ->  out [2n]; no two of them overlap
/// @source Box and Muller, "A note on the generation of random normal deviates", 1958.
void box_muller(Index n, const double* u, const double* v, double* out);

}  // namespace ls
