#pragma once
// Values of one number over seeds.
#include <fmt/format.h>

#include <cmath>
#include <string>
#include <vector>

namespace ls::experiments {

/// Values of several seeds; the spread is their standard deviation (n - 1).
struct Sample {
  std::vector<double> values;

  double mean() const {
    double m = 0;
    for (const double x : values) {
      m += x / static_cast<double>(values.size());
    }
    return m;
  }
  double spread() const {
    const double m = mean();
    double squares = 0;
    for (const double x : values) {
      squares += (x - m) * (x - m);
    }
    return values.size() > 1 ? std::sqrt(squares / static_cast<double>(values.size() - 1)) : 0;
  }
  std::string str(int digits) const {
    if (values.empty()) {
      return "-";
    }
    return values.size() > 1 ? fmt::format("{:.{}f} ±{:.{}f}", mean(), digits, spread(), digits)
                             : fmt::format("{:.{}f}", mean(), digits);
  }
};

}  // namespace ls::experiments
