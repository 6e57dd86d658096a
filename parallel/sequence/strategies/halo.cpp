// Windows: what a rank's tokens leave does not depend on what came in, where they are as many as
// the window reaches back. Each rank hears its neighbour only.
#include "parallel/sequence/strategy.h"

namespace ls::parallel {
namespace {

class Neighbour final : public Exchange {
 public:
  Neighbour(RankScan& scan, Communicator& comm) : scan_(scan), first_(comm.rank() == 0) {
    const int r = comm.rank(), next = r + 1 < comm.size() ? r + 1 : kNoRank;
    const Tensors own = scan.summary();
    before_ = begin_exchange(comm, own, next, first_ ? kNoRank : r - 1, own.size(), scan.device());
  }
  Tensors finish() override {
    const Tensors before = before_.wait_one();
    return scan_.run(first_ ? scan_.initial() : scan_.act(before, scan_.initial()));
  }

 private:
  RankScan& scan_;
  bool first_;
  PendingLists before_;
};

class Halo final : public HandingStrategy {
 public:
  bool serves(const AskedScan& asked) const override {
    return asked.scan.kind != layers::FamilyKind::kRelay && asked.reach > 0 &&
           asked.extents.fewest >= asked.reach;
  }
  Payload payload(const SplitSizes& s) const override {
    const auto one = static_cast<double>(s.state + s.transition);
    return {.sent = one, .path = one, .held = one};
  }
  std::unique_ptr<Exchange> begin(RankScan& scan, Communicator& comm) const override {
    return std::make_unique<Neighbour>(scan, comm);
  }
};
LS_STRATEGY(Halo, "halo",
            "each rank hears its neighbour only; for windows, convolutions and shifts");

}  // namespace
}  // namespace ls::parallel
