#pragma once
// Where a scan runs: on this process alone, or split over ranks. Mixers do not know which.
#include <memory>
#include <span>
#include <vector>

#include "autograd/call.h"
#include "layers/scan/scan.h"

namespace ls::layers {

/// How scans of one forward pass are run; chosen in SeqOptions.
class SeqRunner {
 public:
  virtual ~SeqRunner() = default;
  /// The op's outputs for these inputs, both in contract order; states and boundaries are filled
  /// in, absent inputs undefined. `attrs` points to the op's Attrs, form and chunk already set.
  virtual std::vector<ag::Var> run(const ScanInfo& scan, std::vector<ag::Var> inputs,
                                   std::shared_ptr<const void> attrs) = 0;
};

/// Calls the op.
class LocalRunner final : public SeqRunner {
 public:
  std::vector<ag::Var> run(const ScanInfo& scan, std::vector<ag::Var> inputs,
                           std::shared_ptr<const void> attrs) override {
    return ag::call(*scan.op, std::move(inputs), std::move(attrs));
  }
};

}  // namespace ls::layers
