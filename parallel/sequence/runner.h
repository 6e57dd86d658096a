#pragma once
// Scans whose sequence is split over the ranks of a group: rank r holds the tokens after those of
// rank r - 1.
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "layers/seq_runner.h"
#include "parallel/sequence/strategy.h"

namespace ls::parallel {

/// One tape node for each scan, which runs on every rank in both directions, whether or not its
/// tokens or a gradient reached it. Incoming states are the same on all ranks and belong to the
/// first; outgoing ones, when they are kept, are those of the last on all ranks, and their
/// gradients are summed over ranks. Gradients of other inputs are this rank's share. Of a stretch
/// that is read backward all this holds with the ranks numbered from the last.
class SplitRunner final : public layers::SeqRunner {
 public:
  /// `strategy`: a name in strategy_registry(), for the scans that it serves; for others, or with
  /// "auto", by what strategies would send (Payload::cost) and hold, relay where nothing else
  /// serves. LONGSCAN_LOG=debug says what each scan takes. `local` runs each rank's tokens; both
  /// must outlive the runner.
  /// @throws Error(Config) for an unknown name
  SplitRunner(Communicator& comm, layers::SeqRunner& local, const std::string& strategy = "auto");
  /// @throws what check_taken does, from the second pass on
  std::vector<ag::Var> run(const layers::ScanInfo& scan, std::vector<ag::Var> inputs,
                           std::shared_ptr<const void> attrs, const layers::Stretch& stretch,
                           const layers::ScanCall& call) override;
  /// By slot, the strategy that each scan took when it last ran.
  const std::map<std::string, std::string>& taken() const { return taken_; }
  /// @throws Error(Unsupported) where a strategy was named that served none of the scans so far
  void check_taken() const;
  /// The last rank's, on all.
  std::vector<Index> seen_after(const layers::Stretch& stretch) override;

 private:
  const Strategy& choose(const layers::ScanInfo& scan, const std::vector<ag::Var>& inputs,
                         const void* attrs, const layers::Stretch& stretch,
                         const layers::ScanCall& call);
  /// Its name.
  const std::string& cheapest(const AskedScan& asked, const Tensors& in, const void* attrs);
  /// Of the tokens of all ranks, where that matters for the scan: else of this rank's alone.
  RankExtents extents_of(const layers::ScanInfo& scan, Index reach, Index tokens);
  /// With the ranks numbered as the stretch is read.
  std::shared_ptr<Communicator> in_order(const layers::Stretch& stretch);

  Communicator& comm_;
  layers::SeqRunner& local_;
  std::string strategy_;
  /// What `auto` chose: by scan, bytes of a token, whether outputs merge, reach and, where they
  /// matter, tokens.
  std::map<std::tuple<const layers::ScanInfo*, Index, bool, Index, bool, Index, Index>, std::string>
      chosen_;
  std::map<std::string, std::string> taken_;
  bool served_ = false;  ///< the named strategy has run a scan
};

}  // namespace ls::parallel
