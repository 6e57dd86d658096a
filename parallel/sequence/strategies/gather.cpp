// LASP-2 (2502.07563): one gather of summaries, whose size does not depend on the number of tokens;
// each rank folds those before its own.
#include "parallel/sequence/strategy.h"

namespace ls::parallel {
namespace {

class Summaries final : public Exchange {
 public:
  Summaries(RankScan& scan, Communicator& comm)
      : scan_(scan), rank_(comm.rank()), all_(begin_gather(comm, scan.summary(), scan.device())) {}
  Tensors finish() override {
    const std::vector<Tensors> all = all_.wait();
    Tensors state = scan_.initial();
    for (int r = 0; r < rank_; ++r) {
      state = scan_.act(all[static_cast<std::size_t>(r)], state);
    }
    return scan_.run(state);
  }

 private:
  RankScan& scan_;
  int rank_;
  PendingLists all_;
};

class Gather final : public HandingStrategy {
 public:
  bool serves(const AskedScan& asked) const override {
    return asked.scan.kind != layers::FamilyKind::kRelay;
  }
  Payload payload(const SplitSizes& s) const override {
    const double all = static_cast<double>((s.ranks - 1) * (s.state + s.transition));
    return {.sent = all, .path = all, .held = all};
  }
  std::unique_ptr<Exchange> begin(RankScan& scan, Communicator& comm) const override {
    return std::make_unique<Summaries>(scan, comm);
  }
};
LS_STRATEGY(
    Gather, "gather",
    "LASP-2: one gather of summaries, or of keys and values; each rank folds those before its own");

}  // namespace
}  // namespace ls::parallel
