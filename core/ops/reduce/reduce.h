#pragma once
#include <vector>

#include "core/base/types.h"

namespace ls::ops {

/// Sum, mean or maximum over axes.
/// @shape  x [...] -> y: x without the reduced axes, or with extent 1 there (keep); index: the
///         same, for max only: the place of the first maximum among the reduced elements in
///         row-major order
/// @dtype  any float; sums in f64
/// @grad   exact; that of max goes to `index` alone. NaN counts as the greatest number
/// @throws Error(Shape) on an axis that does not exist or is named twice, and on a maximum of
///         nothing
struct Reduce {
  enum class Kind : std::uint8_t { kSum, kMean, kMax };
  template <class T>
  struct In {
    T x;
  };
  template <class T>
  struct Out {
    T y, index;
  };
  struct Attrs {
    Kind kind = Kind::kSum;
    std::vector<int> axes;  ///< negative counts from the end; none: all
    bool keep = false;
    void fields(auto&& f) const {
      f("kind", kind, "what becomes of the elements");
      f("axes", axes, "that go away, negative counts from the end; none: all");
      f("keep", keep, "they stay with extent 1");
    }
  };
};

}  // namespace ls::ops

template <>
struct ls::EnumNames<ls::ops::Reduce::Kind> {
  static constexpr std::string_view kKind = "reduction";
  static constexpr std::array<std::string_view, 3> kNames = {"sum", "mean", "max"};
};
