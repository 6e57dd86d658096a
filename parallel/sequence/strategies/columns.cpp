// Each rank runs all tokens of some columns of the values, and so of the state: for few and wide
// heads. What all columns read (queries, keys, gates) goes to every rank.
#include "parallel/sequence/redistribute.h"

namespace ls::parallel {
namespace {

class Columns final : public Strategy {
 public:
  bool serves(const AskedScan& asked) const override {
    return falls_apart(asked.scan, asked.scan.columns);
  }
  Payload payload(const SplitSizes& s) const override {
    return redistribution(s, s.in.columns, s.out.columns, s.column_units);
  }
  std::vector<ag::Var> run(SplitCall call) const override {
    const std::vector<std::string>& columns = call.scan.columns;
    return run_redistributed(std::move(call), columns);
  }
};
LS_STRATEGY(Columns, "columns", "each rank runs all tokens of some columns of the values");

}  // namespace
}  // namespace ls::parallel
