#pragma once
// A scan as ranks run it whose stretches make up the sequence, on threads of this process.
#include <string>

#include "layers/seq_runner.h"

namespace ls::parallel {

/// For tests and checks. One tape node: its backward pass runs the ranks once more, forward and
/// backward, so nothing of them outlives a pass.
class ThreadRanks final : public layers::SeqRunner {
 public:
  /// `ranks` stretches that become longer from each to the next; with more ranks than tokens some
  /// are empty. `strategy` as for SplitRunner.
  explicit ThreadRanks(int ranks, std::string strategy = "auto");
  std::vector<ag::Var> run(const layers::ScanInfo& scan, std::vector<ag::Var> inputs,
                           std::shared_ptr<const void> attrs, const layers::Stretch& stretch,
                           const layers::ScanCall& call) override;

 private:
  int ranks_;
  std::string strategy_;
};

}  // namespace ls::parallel
