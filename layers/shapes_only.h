#pragma once
// Models without memory, to count their parameters.

namespace ls::layers {

/// While alive, parameters made on this thread have their shapes and no memory of their own: to
/// count them. Their values are zero and must not be changed.
class ShapesOnly {
 public:
  ShapesOnly();
  ~ShapesOnly();
  ShapesOnly(const ShapesOnly&) = delete;
  ShapesOnly& operator=(const ShapesOnly&) = delete;
};

}  // namespace ls::layers
