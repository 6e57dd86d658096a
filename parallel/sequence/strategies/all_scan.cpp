// ZeCO (2507.01004): as a ring, the state in pieces: a rank hands one on while it receives the
// next. Behind R - 2 + n messages the last of R ranks has its n pieces, and each has sent and
// received one state.
#include "parallel/sequence/strategy.h"

namespace ls::parallel {
namespace {

class Pipe final : public Exchange {
 public:
  Pipe(RankScan& scan, Communicator& comm) : scan_(scan), comm_(comm) {
    if (comm.rank() + 1 < comm.size()) {
      summary_ = scan.summary();
    } else {
      scan.begin_tokens();
    }
  }
  Tensors finish() override {
    const int r = comm_.rank(), n = scan_.pieces();
    const bool first = r == 0, last = r + 1 == comm_.size();
    const Tensors initial = first ? scan_.initial() : Tensors();
    std::vector<Tensors> states;
    Tensors leaves;  // what the piece before becomes behind this rank's tokens
    for (int i = 0; i <= n; ++i) {
      const bool sends = i > 0 && !last, receives = i < n && !first;
      PendingLists message;
      if (sends || receives) {
        message = begin_exchange(comm_, sends ? leaves : Tensors(), sends ? r + 1 : kNoRank,
                                 receives ? r - 1 : kNoRank, scan_.states(), scan_.device());
      }
      if (i == n) {
        // The last piece is on its way while the tokens run.
        const Tensors after = scan_.run(first ? initial : scan_.joined(states));
        if (sends) {
          message.wait();
        }
        return after;
      }
      Tensors come;
      if (sends && !receives) {
        message.wait();
      } else if (receives) {
        come = message.wait_one();
      }
      states.push_back(receives ? std::move(come) : scan_.piece(initial, i));
      if (!last) {
        leaves = scan_.act(scan_.piece(summary_, i), states.back());
      }
    }
    return {};
  }

 private:
  RankScan& scan_;
  Communicator& comm_;
  Tensors summary_;
};

class AllScan final : public HandingStrategy {
 public:
  bool serves(const AskedScan& asked) const override { return has_fixed_states(asked.scan); }
  Payload payload(const SplitSizes& s) const override {
    const auto state = static_cast<double>(s.state), n = static_cast<double>(s.parts * s.pieces),
               steps = static_cast<double>(s.ranks) - 2 + n;
    return {.sent = state, .path = steps * state / n, .steps = steps, .held = state};
  }
  std::unique_ptr<Exchange> begin(RankScan& scan, Communicator& comm) const override {
    return std::make_unique<Pipe>(scan, comm);
  }
};
LS_STRATEGY(
    AllScan, "all_scan",
    "ZeCO: the state goes from rank to rank in pipelined pieces; each rank sends one state");

}  // namespace
}  // namespace ls::parallel
