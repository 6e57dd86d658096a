#pragma once
// A scan cut by its heads, or by its rows, which know nothing of one another: while what one part
// waits for is under way, another is worked on.
#include <functional>

#include "autograd/var.h"
#include "layers/scan/scan.h"
#include "layers/seq_runner.h"

namespace ls::parallel {

/// Where an argument has one of these axes, counted from the end; 0: it has none.
int axis_of(const ArgSpec& arg, const std::vector<std::string>& symbols);

class HeadParts {
 public:
  using Vars = std::vector<ag::Var>;
  /// `wanted` parts of the heads; where the scan declares none, or these do not fall into as many,
  /// of the rows; else one. Of scans without summaries, whose ranks take turns, rows are cut into
  /// up to kMostTurns parts.
  HeadParts(const layers::ScanInfo& scan, const Vars& inputs, int wanted);

  int count() const { return count_; }
  layers::Stretch stretch(const layers::Stretch& all, int part) const;
  /// The part of the op's inputs, and of a call.
  Vars inputs(const Vars& all, int part) const;
  /// `places`: where the op's outputs are wanted, those of all heads; or none.
  layers::ScanCall call(const layers::ScanCall& all, std::span<const Tensor> places,
                        int part) const;
  /// Of an input, then what documents start from, by port; of an output. Views; undefined where the
  /// whole is.
  Tensor of_input(const Tensor& all, std::size_t i, int part) const;
  Tensor of_output(const Tensor& all, std::size_t i, int part) const;
  bool cuts_input(std::size_t i) const { return count_ > 1 && in_[i] < 0; }
  /// The parts of an output, put together, in `place` where that is defined; undefined where they
  /// are.
  Tensor joined(const std::vector<Tensor>& parts, std::size_t output,
                const Tensor& place = {}) const;

 private:
  static constexpr int kMostTurns = 4;
  using AxisOf = std::function<int(const ArgSpec&)>;
  bool cut(const layers::ScanInfo& scan, const Vars& inputs, int wanted, const AxisOf& axis,
           bool fresh);
  Tensor part_of(const Tensor& all, int axis, int part) const;

  int count_ = 1;
  bool by_rows_ = false;
  std::vector<int> in_, out_;  ///< axis that is cut, counted from the end; 0: there is none
};

}  // namespace ls::parallel
