// LASP-2 (2502.07563): one gather of summaries, whose size does not depend on the number of tokens;
// each rank folds those before its own.
#include "parallel/sequence/strategy.h"

namespace ls::parallel {
namespace {

class Gather final : public Strategy {
 public:
  bool serves(const layers::ScanInfo& scan, Index, const RankExtents&) const override {
    return scan.kind != layers::FamilyKind::kRelay;
  }
  Tensors run(RankScan& scan, Communicator& comm) const override {
    const std::vector<Tensors> all = gather_lists(comm, scan.summary(), scan.device());
    Tensors state = scan.initial();
    for (int r = 0; r < comm.rank(); ++r) {
      state = scan.act(all[static_cast<std::size_t>(r)], state);
    }
    return scan.run(state);
  }
};
LS_STRATEGY(Gather, "gather");

}  // namespace
}  // namespace ls::parallel
