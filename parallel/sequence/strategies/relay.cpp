// Ranks take turns: the state goes from each to the next. Serves every scan. Heads or rows are cut
// into parts (HeadParts), and while a rank works on one the next works on the part before.
#include "parallel/sequence/strategy.h"

namespace ls::parallel {
namespace {

class Turn final : public Exchange {
 public:
  Turn(RankScan& scan, Communicator& comm) : scan_(scan), comm_(comm) {}
  Tensors finish() override {
    const int r = comm_.rank();
    // Asked for now: messages go in order, and this part's must not wait for the next part's.
    Tensors after = scan_.run(
        r == 0
            ? scan_.initial()
            : begin_exchange(comm_, {}, kNoRank, r - 1, scan_.states(), scan_.device()).wait_one());
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
  PendingLists sent_;
};

class Relay final : public HandingStrategy {
 public:
  bool serves(const AskedScan&) const override { return true; }
  /// Beside what it sends all ranks wait for all tokens before theirs, so it is the last resort.
  Payload payload(const SplitSizes& s) const override {
    const auto parts = static_cast<double>(s.parts), state = static_cast<double>(s.handed),
               steps = static_cast<double>(s.ranks) - 2 + parts;
    return {.sent = state, .path = steps * state / parts, .steps = steps, .held = state};
  }
  std::unique_ptr<Exchange> begin(RankScan& scan, Communicator& comm) const override {
    return std::make_unique<Turn>(scan, comm);
  }
};
LS_STRATEGY(Relay, "relay",
            "ranks take turns, a part of heads or rows at a time; serves every scan");

}  // namespace
}  // namespace ls::parallel
