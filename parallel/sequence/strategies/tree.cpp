// Summaries are joined in log2 R steps: at step d = 1, 2, 4, ... rank r hears from rank r - d what
// the d ranks up to that one do, and then knows of 2 d. For many ranks and small transitions; what
// a rank holds does not grow with the ranks.
#include "parallel/sequence/strategy.h"

namespace ls::parallel {
namespace {

class Steps final : public Exchange {
 public:
  Steps(RankScan& scan, Communicator& comm) : scan_(scan), comm_(comm) {
    if (sends(1)) {
      all_ = scan.summary();
    } else {
      scan.begin_tokens();
    }
  }
  Tensors finish() override {
    const int r = comm_.rank(), n = comm_.size();
    Tensors before;  // of all ranks before this one that were heard of
    for (int d = 1; d < n; d *= 2) {
      const int to = sends(d) ? r + d : kNoRank, from = r >= d ? r - d : kNoRank;
      if (to == kNoRank && from == kNoRank) {
        continue;
      }
      PendingLists message = begin_exchange(comm_, sends(d) ? all_ : Tensors(), to, from,
                                            scan_.summary_size(), scan_.device());
      if (from == kNoRank) {
        message.wait();
        continue;
      }
      const Tensors earlier = message.wait_one();
      before = before.empty() ? earlier : scan_.compose(earlier, before);
      if (sends(2 * d)) {
        all_ = scan_.compose(earlier, all_);
      }
    }
    const Tensors initial = scan_.initial();
    return scan_.run(before.empty() ? initial : scan_.act(before, initial));
  }

 private:
  bool sends(int d) const { return comm_.rank() + d < comm_.size(); }
  RankScan& scan_;
  Communicator& comm_;
  Tensors all_;
};

class Tree final : public HandingStrategy {
 public:
  bool serves(const AskedScan& asked) const override { return has_fixed_states(asked.scan); }
  Payload payload(const SplitSizes& s) const override {
    double steps = 0;
    for (Index d = 1; d < s.ranks; d *= 2) {
      ++steps;
    }
    const auto one = static_cast<double>(s.state + s.transition);
    // What came, what is known of all before, and both together.
    return {.sent = steps * one,
            .path = steps * one,
            .steps = steps * static_cast<double>(s.parts),
            .held = 3 * one};
  }
  std::unique_ptr<Exchange> begin(RankScan& scan, Communicator& comm) const override {
    return std::make_unique<Steps>(scan, comm);
  }
};
LS_STRATEGY(Tree, "tree",
            "summaries are joined in log2 R steps; for many ranks and small transitions");

}  // namespace
}  // namespace ls::parallel
