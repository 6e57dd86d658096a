// Ranks take turns: the state goes from each to the next. Serves every scan.
#include "parallel/sequence/strategy.h"

namespace ls::parallel {
namespace {

class Relay final : public Strategy {
 public:
  bool serves(const layers::ScanInfo&, Index, const RankExtents&) const override { return true; }
  Tensors run(RankScan& scan, Communicator& comm) const override {
    const int r = comm.rank(), next = r + 1 < comm.size() ? r + 1 : kNoRank;
    const Tensors state =
        r == 0 ? scan.initial()
               : exchange_lists(comm, {}, kNoRank, r - 1, scan.states(), scan.device());
    Tensors after = scan.run(state);
    if (next != kNoRank) {
      exchange_lists(comm, after, next, kNoRank, scan.states(), scan.device());
    }
    return after;
  }
};
LS_STRATEGY(Relay, "relay");

}  // namespace
}  // namespace ls::parallel
