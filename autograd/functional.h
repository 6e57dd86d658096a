#pragma once
// Differentiable views, conversions and sums, for any shape and element type; gradients flow
// through floats. Views do not copy. Axes may be negative, counted from the end. All throw
// Error(Shape) on axes, extents or ranges that do not fit.
#include <vector>

#include "autograd/var.h"

namespace ls::ag {

/// Same elements in another shape; one extent may be -1.
Var reshape(const Var& x, const Shape& shape);
/// Axis i of the result is axis axes[i] of x; every axis once.
Var permute(const Var& x, std::initializer_list<int> axes);
/// Axes a and b change places.
Var transpose(const Var& x, int a, int b);
/// Elements [begin, end) of an axis.
Var slice(const Var& x, int axis, Index begin, Index end);
/// Consecutive pieces of an axis with these extents, as views. Their gradients are put together in
/// one tensor; ops with strided_grad write them there themselves, the others' are copied.
std::vector<Var> split(const Var& x, int axis, const std::vector<Index>& extents);
/// Pieces end to end along an axis; other extents and types are equal. A copy.
Var concat(const std::vector<Var>& parts, int axis);
/// The value in another float type; the gradient comes back in the type of `x`. Of a leaf the
/// copy is kept until the leaf is written (ConvertedCopy).
Var cast(const Var& x, DType dtype);
/// Rows of the first axis by index, [R,...] -> [rows.size(),...]; index -1 gives a row of zeros.
/// Repeated indices add up in the gradient.
Var take_rows(const Var& x, const std::vector<Index>& rows);
/// a + b, of one shape and float type.
Var add(const Var& a, const Var& b);
/// factor x, for floats.
Var scale(const Var& x, double factor);

}  // namespace ls::ag
