#pragma once
// What a state, or what is read of it, looks like, as numbers.
#include <span>
#include <vector>

#include "core/base/types.h"

namespace ls::experiments {

/// exp of the entropy of the singular values, each over their sum: 1 of a matrix of rank one, n of
/// n equal values, 0 of zeros, NaN of what is not finite.
/// @param matrix  [rows, columns], row after row
/// @source Roy and Vetterli, "The effective rank", 2007
double effective_rank(std::span<const double> matrix, Index rows, Index columns);

/// Half the sum of absolute differences of two distributions.
double total_variation(std::span<const double> p, std::span<const double> q);
/// e^scores over their sum.
std::vector<double> softmax(std::span<const double> scores);

/// Vectors of known classes, by their sums: how widely those of one class are spread, and how far
/// the classes lie from one another. Both are looked at within the space that the differences of
/// the classes' means span, where a linear read-out tells them apart.
/// @source Chung et al. 2605.07755, after whom tracking fails where the first has grown to a share
///   of the second, as it was at first, that the trained decoder no longer reads
class ClassSpread {
 public:
  ClassSpread(Index classes, Index width);
  void add(Index label, std::span<const double> x);

  /// Squares are estimated without bias: over the vectors less the classes, and without what the
  /// means differ by chance.
  struct Spread {
    double within = 0;   ///< root mean square distance of a vector from the mean of its class
    double between = 0;  ///< the same of the classes' means from their mean; 0: no more than chance
    Index classes = 0;   ///< that have at least two vectors, which alone count
    double ratio() const { return within / between; }
  };
  /// NaN, both, where fewer than two classes have two vectors.
  Spread spread() const;

 private:
  Index classes_, width_;
  std::vector<Index> count_;
  std::vector<double> sum_;    // [classes, width]
  std::vector<double> outer_;  // [width, width], of all, the upper triangle
};

/// The ratio above which a decoder that takes the nearest mean is right less often than `accuracy`:
/// classes at the corners of a regular simplex, spread alike in all its directions, errors of the
/// pairs added up. Ours, in place of a threshold that is measured of each trained decoder.
double readable_ratio(Index classes, double accuracy);

/// A power law through the points, by least squares of the logarithms; the x at which it comes to
/// `level`, infinity where it never does. NaN with fewer than two positive points.
double crossing(std::span<const double> x, std::span<const double> y, double level);

}  // namespace ls::experiments
