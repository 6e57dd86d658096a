#pragma once
// Scans whose sequence is split over the ranks of a group: rank r holds the tokens after those of
// rank r - 1.
#include <string>

#include "layers/seq_runner.h"
#include "parallel/sequence/strategy.h"

namespace ls::parallel {

/// One tape node for each scan, which runs on every rank in both directions, whether or not its
/// tokens or a gradient reached it. Incoming states are the same on all ranks and belong to the
/// first; outgoing ones, when they are kept, are those of the last on all ranks, and their
/// gradients are summed over ranks. Gradients of other inputs are this rank's share.
class SplitRunner final : public layers::SeqRunner {
 public:
  /// `strategy`: a name in strategy_registry(), or "auto": the first of halo, gather and relay that
  /// serves. `local` runs each rank's tokens; both must outlive the runner.
  /// @throws Error(Config) for an unknown name
  SplitRunner(Communicator& comm, layers::SeqRunner& local, const std::string& strategy = "auto");
  /// @throws Error(Unsupported) where the strategy does not serve the scan
  std::vector<ag::Var> run(const layers::ScanInfo& scan, std::vector<ag::Var> inputs,
                           std::shared_ptr<const void> attrs, const layers::Stretch& stretch,
                           const layers::ScanCall& call) override;
  /// The last rank's, on all.
  std::vector<Index> seen_after(const layers::Stretch& stretch) override;

 private:
  const Strategy& choose(const layers::ScanInfo& scan, const std::vector<ag::Var>& inputs,
                         const void* attrs, const layers::Stretch& stretch, Index updates);

  Communicator& comm_;
  layers::SeqRunner& local_;
  std::string strategy_;
};

}  // namespace ls::parallel
