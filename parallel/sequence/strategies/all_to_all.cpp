// DeepSpeed-Ulysses (2309.14509): each rank runs all tokens of some of the heads.
#include "parallel/sequence/redistribute.h"

namespace ls::parallel {
namespace {

class AllToAll final : public Strategy {
 public:
  bool serves(const AskedScan& asked) const override {
    return falls_apart(asked.scan, asked.scan.heads);
  }
  Payload payload(const SplitSizes& s) const override {
    return redistribution(s, s.in.heads, s.out.heads, s.head_units);
  }
  std::vector<ag::Var> run(SplitCall call) const override {
    const std::vector<std::string>& heads = call.scan.heads;
    return run_redistributed(std::move(call), heads);
  }
};
LS_STRATEGY(AllToAll, "all_to_all", "Ulysses: each rank runs all tokens of some heads");

}  // namespace
}  // namespace ls::parallel
