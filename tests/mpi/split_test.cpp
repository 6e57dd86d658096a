// Scans whose sequence lies on the ranks of a launcher, against one rank: families of every kind
// under every strategy that serves them.
#include <doctest/doctest.h>

#include "core/ops/attention/attention.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/delta_rule/delta_rule.h"
#include "core/ops/gated_scan/gated_scan.h"
#include "core/ops/lstm/lstm.h"
#include "core/ops/mlstm/mlstm.h"
#include "core/ops/short_conv/short_conv.h"
#include "parallel/sequence/runner.h"
#include "tests/mpi/env.h"
#include "tests/support/split_case.h"

namespace ls::test {
namespace {

using parallel::Tensors;

constexpr Index kRows = 2, kTokens = 21;

/// On the ranks of this program; what each gave is told to all.
std::vector<SplitCase::Called> on_mpi(int ranks,
                                      const std::function<SplitCase::Called(Communicator&)>& body) {
  Communicator& world = env().world();
  CHECK(ranks == world.size());
  const SplitCase::Called own = body(world);
  Tensors list = own.out;
  list.insert(list.end(), own.din.begin(), own.din.end());
  std::vector<SplitCase::Called> all;
  for (const Tensors& theirs : parallel::begin_gather(world, list, cpu()).wait()) {
    const auto in = theirs.begin() + std::ssize(own.out);
    all.push_back({{theirs.begin(), in}, {in, theirs.end()}});
  }
  return all;
}

template <class Op>
void try_strategies(const typename Op::template In<Tensor>& in,
                    const typename Op::Attrs& attrs = {}, double slack = 1) {
  ScanCase c;
  c.slack = slack;
  c.in = ls::detail::spread_members<Tensor>(in);
  c.attrs = std::make_shared<const typename Op::Attrs>(attrs);
  const layers::ScanInfo& scan = layers::scan_of(op_info<Op>(), c.attrs.get());
  c.name = scan.op->name;
  CAPTURE(c.name);
  for (const std::string& strategy : parallel::strategy_registry().names()) {
    const parallel::AskedScan any{.scan = scan, .merges = !scan.merged_by.empty()};
    if (!parallel::strategy_registry().at(strategy)->serves(any)) {
      continue;
    }
    CAPTURE(strategy);
    using Documents = SplitCase::Documents;
    using Cuts = SplitCase::Cuts;
    for (const DType type : {DType::kF64, DType::kF32}) {
      SplitCase documents(scan, c, {.documents = Documents::kAtCuts, .type = type}),
          backward(scan, c, {.documents = Documents::kSome, .backward = true, .type = type});
      const auto differs = [&](SplitCase& split, Cuts cuts) {
        return split.differs(env().world().size(), strategy, SplitCase::Gradients::kAll, cuts,
                             on_mpi);
      };
      CHECK(differs(documents, Cuts::kRandom) == "");
      CHECK(differs(documents, Cuts::kLastEmpty) == "");
      CHECK(differs(backward, Cuts::kEven) == "");
    }
  }
}

}  // namespace

TEST_SUITE("mpi") {
  TEST_CASE("scans split over the ranks of a launcher") {
    Draw draw("scans on MPI ranks");
    const auto normal = [&](Index heads, Index channels) {
      return draw.normal({kRows, kTokens, heads, channels});
    };
    const auto numbers = [&](Index n) { return draw.normal({kRows, kTokens, n}, 0.5); };
    const auto decays = [&](Index n) { return draw.uniform({kRows, kTokens, n}, -1, 0); };
    try_strategies<ops::DecayedLinear>(
        {.q = normal(4, 3), .k = normal(4, 3), .v = normal(4, 5), .g = decays(4)});
    try_strategies<ops::DeltaRule>({.q = normal(2, 3),
                                    .k = draw.unit_rows({kRows, kTokens, 2, 3}),
                                    .v = normal(2, 5),
                                    .beta = draw.uniform({kRows, kTokens, 2}, 0, 1),
                                    .s0 = draw.normal({kRows, 2, 3, 5})});
    try_strategies<ops::Mlstm>(
        {.q = normal(3, 3), .k = normal(3, 3), .v = normal(3, 2), .i = numbers(3), .f = decays(3)});
    try_strategies<ops::GatedScan>({.u = numbers(5), .g = decays(5)});
    try_strategies<ops::ShortConv>({.x = numbers(6), .weight = draw.normal({6, 4})});
    try_strategies<ops::Lstm>(
        {.gx = numbers(16), .r = draw.normal({1, 16, 4}, 0.3), .h0 = draw.normal({kRows, 4})});
    ops::Attention::Attrs full, window;
    full.scale = window.scale = 0.5;
    constexpr double kRounded = 2;  // o, from which its gradient is corrected, is rounded
    window.window = 6;
    try_strategies<ops::Attention>({.q = normal(4, 3),
                                    .k = normal(2, 3),
                                    .v = normal(2, 5),
                                    .k0 = draw.normal({kRows, 4, 2, 3}),
                                    .v0 = draw.normal({kRows, 4, 2, 5}),
                                    .sink = draw.normal({4})},
                                   full, kRounded);
    try_strategies<ops::Attention>({.q = normal(2, 3), .k = normal(2, 3), .v = normal(2, 3)},
                                   window, kRounded);
  }
}

}  // namespace ls::test
