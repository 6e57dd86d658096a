#pragma once
#include <array>

#include "core/base/error.h"
#include "core/ops/reduce/reduce.h"
#include "core/tensor/shape.h"

namespace ls::ops {

/// Which axes go away. @throws Error(Shape) on one that does not exist or is named twice
inline std::array<bool, kMaxRank> reduced_axes(const Shape& shape, const Reduce::Attrs& a) {
  std::array<bool, kMaxRank> reduced{};
  for (int axis = 0; axis < shape.rank(); ++axis) {
    reduced[axis] = a.axes.empty();
  }
  for (const int axis : a.axes) {
    const int i = axis < 0 ? axis + shape.rank() : axis;
    LS_CHECK(i >= 0 && i < shape.rank(), kShape, "reduce: axis {} of a tensor {}", axis,
             shape.str());
    LS_CHECK(!reduced[i], kShape, "reduce: axis {} of {} is named twice", axis, shape.str());
    reduced[i] = true;
  }
  return reduced;
}

}  // namespace ls::ops
