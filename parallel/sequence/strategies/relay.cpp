// Ranks take turns: the state goes from each to the next. Serves every scan.
#include "parallel/sequence/strategy.h"

namespace ls::parallel {
namespace {

class Turn final : public Exchange {
 public:
  Turn(RankScan& scan, Communicator& comm) : scan_(scan), comm_(comm) {
    if (comm.rank() > 0) {
      before_ = begin_exchange(comm, {}, kNoRank, comm.rank() - 1, scan.states(), scan.device());
    }
  }
  Tensors finish() override {
    const int r = comm_.rank();
    Tensors after = scan_.run(r == 0 ? scan_.initial() : before_.wait_one());
    if (r + 1 < comm_.size()) {
      sent_ = begin_exchange(comm_, after, r + 1, kNoRank, scan_.states(), scan_.device());
      sends_ = true;
    }
    return after;
  }
  void settle() override {
    if (sends_) {
      sent_.wait();
    }
  }

 private:
  RankScan& scan_;
  Communicator& comm_;
  bool sends_ = false;
  PendingLists before_, sent_;
};

class Relay final : public Strategy {
 public:
  bool serves(const layers::ScanInfo&, Index, const RankExtents&) const override { return true; }
  std::unique_ptr<Exchange> begin(RankScan& scan, Communicator& comm) const override {
    return std::make_unique<Turn>(scan, comm);
  }
};
LS_STRATEGY(Relay, "relay");

}  // namespace
}  // namespace ls::parallel
