#pragma once
// Where a scan runs: on this process alone, or split over ranks. Mixers do not know which.
#include <memory>
#include <span>
#include <vector>

#include "autograd/call.h"
#include "layers/scan/family.h"

namespace ls::layers {

class SeqRunner {
 public:
  virtual ~SeqRunner() = default;
  /// The op's outputs for these inputs (contract order, states and boundaries filled in).
  virtual std::vector<ag::Var> run(const FamilyInfo& family, std::span<const ag::Var> inputs,
                                   std::shared_ptr<const void> attrs) = 0;
};

/// Calls the op.
class LocalRunner final : public SeqRunner {
 public:
  std::vector<ag::Var> run(const FamilyInfo& family, std::span<const ag::Var> inputs,
                           std::shared_ptr<const void> attrs) override {
    return ag::call(*family.op, inputs, std::move(attrs));
  }
};

}  // namespace ls::layers
