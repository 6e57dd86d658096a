#pragma once
// Differentiable views, conversions and sums. Views do not copy.
#include <vector>

#include "autograd/var.h"

namespace ls::ag {

/// Same elements in another shape; one extent may be -1.
Var reshape(const Var& x, const Shape& shape);
Var permute(const Var& x, std::initializer_list<int> axes);
Var transpose(const Var& x, int a, int b);
/// Elements [begin, end) of an axis.
Var slice(const Var& x, int axis, Index begin, Index end);
/// Consecutive pieces of an axis with these extents, as views; their gradients are written into one
/// buffer, so splitting costs no more than the pieces.
std::vector<Var> split(const Var& x, int axis, const std::vector<Index>& extents);
Var concat(const std::vector<Var>& parts, int axis);
/// The value in another float type; the gradient comes back in the type of `x`.
Var cast(const Var& x, DType dtype);
/// Rows of the first axis by index; index -1 gives a row of zeros. Repeated indices add up in the
/// gradient.
Var take_rows(const Var& x, const std::vector<Index>& rows);
/// Same shape and type.
Var add(const Var& a, const Var& b);
Var scale(const Var& x, double factor);

}  // namespace ls::ag
