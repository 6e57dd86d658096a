// Windows: what a rank's tokens leave does not depend on what came in, where they are as many as
// the window reaches back. Each rank hears its neighbour only.
#include "parallel/sequence/strategy.h"

namespace ls::parallel {
namespace {

class Halo final : public Strategy {
 public:
  bool serves(const layers::ScanInfo& scan, Index reach, const RankExtents& e) const override {
    return scan.kind != layers::FamilyKind::kRelay && reach > 0 && e.fewest >= reach;
  }
  Tensors run(RankScan& scan, Communicator& comm) const override {
    const int r = comm.rank(), next = r + 1 < comm.size() ? r + 1 : kNoRank;
    const Tensors own = scan.summary();
    const Tensors before =
        exchange_lists(comm, own, next, r > 0 ? r - 1 : kNoRank, own.size(), scan.device());
    return scan.run(r > 0 ? scan.act(before, scan.initial()) : scan.initial());
  }
};
LS_STRATEGY(Halo, "halo");

}  // namespace
}  // namespace ls::parallel
