// LASP (2404.02882): the state goes from each rank to the next, which lets it through its summary
// at once, and runs its tokens while the next does the same. A rank sends one state.
#include "parallel/sequence/strategy.h"

namespace ls::parallel {
namespace {

class Link final : public Exchange {
 public:
  Link(RankScan& scan, Communicator& comm) : scan_(scan), comm_(comm), last_(is_last(comm)) {
    if (!last_) {
      summary_ = scan.summary();
    } else {
      scan.begin_tokens();
    }
  }
  Tensors finish() override {
    const int r = comm_.rank();
    const Tensors state =
        r == 0
            ? scan_.initial()
            : begin_exchange(comm_, {}, kNoRank, r - 1, scan_.states(), scan_.device()).wait_one();
    if (!last_) {
      sent_ = begin_exchange(comm_, scan_.act(summary_, state), r + 1, kNoRank, scan_.states(),
                             scan_.device());
    }
    return scan_.run(state);
  }
  void settle() override {
    if (!last_) {
      sent_.wait();
    }
  }

 private:
  static bool is_last(const Communicator& comm) { return comm.rank() + 1 == comm.size(); }
  RankScan& scan_;
  Communicator& comm_;
  bool last_;
  Tensors summary_;
  PendingLists sent_;
};

class Ring final : public HandingStrategy {
 public:
  bool serves(const AskedScan& asked) const override {
    return asked.scan.kind == layers::FamilyKind::kFixed;
  }
  Payload payload(const SplitSizes& s) const override {
    const auto parts = static_cast<double>(s.parts), state = static_cast<double>(s.handed),
               steps = static_cast<double>(s.ranks) - 2 + parts;
    return {.sent = state, .path = steps * state / parts, .steps = steps, .held = state};
  }
  std::unique_ptr<Exchange> begin(RankScan& scan, Communicator& comm) const override {
    return std::make_unique<Link>(scan, comm);
  }
};
LS_STRATEGY(Ring, "ring",
            "LASP: the state goes from each rank to the next, which lets it through at once");

}  // namespace
}  // namespace ls::parallel
