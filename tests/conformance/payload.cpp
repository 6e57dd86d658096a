// What strategies say that they send, against the bytes that go over a communicator; and what
// `auto` makes of it.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "autograd/tape.h"
#include "core/comm/thread_comm.h"
#include "core/ops/attention/attention.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/delta_rule/delta_rule.h"
#include "core/ops/gated_scan/gated_scan.h"
#include "core/ops/mlstm/mlstm.h"
#include "core/ops/token_shift/token_shift.h"
#include "parallel/sequence/fragments.h"
#include "parallel/sequence/runner.h"
#include "tests/support/counting.h"
#include "tests/support/draw.h"
#include "tests/support/scan_laws.h"

namespace ls::parallel {
namespace {

using layers::ScanInfo;

using test::Counting;

constexpr int kRanks = 4;

struct Sent {
  Index bytes = 0, messages = 0;
};

/// The most that a rank sends where each has as many tokens.
Sent sent(const ScanInfo& scan, const layers::Tensors& in, std::shared_ptr<const void> attrs,
          const std::string& strategy, Index tokens, Index rows) {
  Sent most;
  std::mutex mutex;
  run_ranks(kRanks, [&](Communicator& comm) {
    Counting counted(comm);
    layers::LocalRunner local;
    SplitRunner runner(counted, local, strategy);
    std::vector<ag::Var> own;
    for (std::size_t i = 0; i < in.size(); ++i) {
      const bool cut = in[i].defined() && layers::is_sequence(scan.op->in[i]);
      own.emplace_back(
          cut ? in[i].slice(1, comm.rank() * tokens, (comm.rank() + 1) * tokens).contiguous()
              : in[i]);
    }
    const ag::NoGrad no_grad;
    runner.run(scan, own, attrs,
               layers::Stretch(rows, kRanks * tokens)
                   .piece(comm.rank() * tokens, (comm.rank() + 1) * tokens),
               {.slot = "scan", .keep = false, .fresh = {}});
    const std::lock_guard lock(mutex);
    most.bytes = std::max(most.bytes, counted.sent());
    most.messages = std::max(most.messages, counted.messages());
  });
  return most;
}

/// Does what is sent agree with the formulas, for every strategy that serves?
int check(const ScanInfo& scan, const layers::Tensors& in, const std::shared_ptr<const void>& attrs,
          const std::string& name) {
  Index rows = 0, tokens = 0;
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (in[i].defined() && layers::is_sequence(scan.op->in[i])) {
      rows = in[i].size(0);
      tokens = in[i].size(1) / kRanks;
    }
  }
  const Index reach = scan.reach ? scan.reach(in, attrs.get()) : 0;
  const SplitSizes sizes = split_sizes(scan, in, attrs.get(), kRanks, tokens, kRanks * tokens);
  int compared = 0;
  for (const std::string& s : strategy_registry().names()) {
    const Strategy& strategy = *strategy_registry().at(s);
    const bool redistributes = s == "all_to_all" || s == "columns";
    const Index units = s == "all_to_all" ? sizes.head_units : sizes.column_units;
    // A window that ends within the next rank makes a ring shorter, shares and fragments that are
    // not equal more.
    if (tokens == 0 || s.starts_with("wrong_") ||
        !strategy.serves({.scan = scan,
                          .reach = reach,
                          .extents = {.fewest = tokens, .most = tokens, .total = tokens},
                          .merges = scan.merges && scan.merges(in, attrs.get())}) ||
        (redistributes && (units == 0 || units % kRanks > 0)) ||
        ((s == "ring_attention" || s == "zig_zag") && scan.reach) ||
        (s == "zig_zag" && tokens % 2 > 0)) {
      continue;
    }
    CAPTURE(name);
    CAPTURE(s);
    const std::vector<Index> leave = tokens_sent(contiguous(std::vector<Index>(kRanks, tokens)),
                                                 zig_zag(kRanks * tokens, kRanks));
    const Index told = redistributes    ? rows * 5 * 8 * (kRanks - 1)
                       : s == "zig_zag" ? rows * 8 * *std::ranges::max_element(leave)
                                        : 0;
    const Sent most = sent(scan, in, attrs, s, tokens, rows);
    const Payload payload = strategy.payload(sizes);
    CHECK(most.bytes - told == static_cast<Index>(payload.sent));
    // Through a pipe goes what a rank sends, and then a message from each further rank. What the
    // parts of the heads wait for is under way at once where no message waits for another.
    const bool pipe = s == "ring" || s == "relay" || s == "all_scan",
               at_once = s == "gather" || s == "halo";
    CHECK(most.messages + (pipe ? kRanks - 2 : 0) ==
          static_cast<Index>(payload.steps) * (at_once ? sizes.parts : 1));
    ++compared;
  }
  return compared;
}

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("strategies send what they say") {
    std::map<std::string, int> compared;
    for (const std::string& name : layers::scan_registry().names()) {
      const ScanInfo& scan = *layers::scan_registry().at(name);
      for (const test::ScanCase& c : (*test::scan_cases().find(name))()) {
        layers::Tensors in = c.in;
        for (const layers::StatePort& port : scan.states) {
          layers::input_of(*scan.op, in, port.input) = Tensor();
        }
        compared[name] += check(scan, in, c.attrs, c.name);
      }
      CHECK(compared[name] > 0);
    }
  }

  TEST_CASE("strategies send what they say: heads and columns of four shares") {
    test::Draw draw("payload");
    const Shape shape{2, 16, 4, 8};
    const auto check_op = [&]<class Op>(const typename Op::template In<Tensor>& in, int least) {
      const auto attrs = std::make_shared<const typename Op::Attrs>();
      const ScanInfo& scan = layers::scan_of(op_info<Op>(), attrs.get());
      CHECK(check(scan, ls::detail::spread_members<Tensor>(in), attrs, scan.op->name) >= least);
    };
    const Tensor q = draw.normal(shape), k = draw.normal(shape), v = draw.normal(shape);
    check_op.operator()<ops::Attention>({.q = q, .k = k, .v = v}, 6);
    check_op.operator()<ops::DecayedLinear>({.q = q, .k = k, .v = v}, 7);
    check_op.operator()<ops::DeltaRule>(
        {.q = q, .k = k, .v = v, .beta = draw.uniform({2, 16, 4}, 0, 1)}, 7);
  }

  TEST_CASE("strategies send as many messages as they say, of one row and of several") {
    test::Draw draw("payload and rows");
    for (const Index rows : {1, 3}) {
      const auto check_op = [&]<class Op>(const typename Op::template In<Tensor>& in,
                                          Index pieces) {
        const auto attrs = std::make_shared<const typename Op::Attrs>();
        const ScanInfo& scan = layers::scan_of(op_info<Op>(), attrs.get());
        const layers::Tensors list = ls::detail::spread_members<Tensor>(in);
        CHECK(check(scan, list, attrs, scan.op->name) >= 4);
        const SplitSizes sizes = split_sizes(scan, list, attrs.get(), kRanks, 2, 2 * kRanks);
        CHECK(sizes.parts == 2);
        CHECK(sizes.pieces == pieces);
      };
      const auto normal = [&](Index heads, Index channels) {
        return draw.normal({rows, 2 * kRanks, heads, channels});
      };
      const auto numbers = [&](Index n) { return draw.uniform({rows, 2 * kRanks, n}, -1, 0); };
      check_op.operator()<ops::DecayedLinear>({.q = normal(8, 4),
                                               .k = normal(8, 4),
                                               .v = normal(8, 4),
                                               .gk = draw.uniform({rows, 2 * kRanks, 8, 4}, -1, 0)},
                                              4);
      check_op.operator()<ops::DeltaRule>(
          {.q = normal(16, 4), .k = normal(16, 4), .v = normal(16, 4), .beta = numbers(16)}, 8);
      check_op.operator()<ops::Mlstm>({.q = normal(8, 4),
                                       .k = normal(8, 4),
                                       .v = normal(8, 4),
                                       .i = numbers(8),
                                       .f = numbers(8)},
                                      4);
      check_op.operator()<ops::GatedScan>({.u = numbers(32), .g = numbers(32)}, 8);
      check_op.operator()<ops::TokenShift>({.x = numbers(12)}, 6);
    }
  }

  TEST_CASE("payloads of fixed states do not grow with the tokens") {
    test::Draw draw("payload and tokens");
    const auto attrs = std::make_shared<const ops::DecayedLinear::Attrs>();
    const ScanInfo& scan = layers::scan_of(op_info<ops::DecayedLinear>(), attrs.get());
    std::map<std::string, std::vector<double>> sent;
    for (const Index tokens : {Index{1} << 10, Index{1} << 14, Index{1} << 18}) {
      const ops::DecayedLinear::In<Tensor> in{.q = draw.normal({1, 8, 4, 8}),
                                              .k = draw.normal({1, 8, 4, 8}),
                                              .v = draw.normal({1, 8, 4, 8})};
      const SplitSizes sizes = split_sizes(scan, ls::detail::spread_members<Tensor>(in),
                                           attrs.get(), kRanks, tokens / kRanks, tokens);
      for (const char* const s : {"gather", "ring", "all_scan", "tree", "all_to_all"}) {
        sent[s].push_back(strategy_registry().at(s)->payload(sizes).sent);
      }
    }
    for (const char* const s : {"gather", "ring", "all_scan", "tree"}) {
      CHECK(sent[s].front() == sent[s].back());
    }
    CHECK(sent["all_to_all"].back() == 256 * sent["all_to_all"].front());
  }

  TEST_CASE("what a rank holds of others does not grow beyond 32 ranks") {
    test::Draw draw("payload and ranks");
    const auto attrs = std::make_shared<const ops::DecayedLinear::Attrs>();
    const ScanInfo& scan = layers::scan_of(op_info<ops::DecayedLinear>(), attrs.get());
    const ops::DecayedLinear::In<Tensor> in{.q = draw.normal({1, 1, 2, 2}),
                                            .k = draw.normal({1, 1, 2, 2}),
                                            .v = draw.normal({1, 1, 2, 2})};
    const layers::Tensors list = ls::detail::spread_members<Tensor>(in);
    // States as small as these are gathered as long as that may be.
    std::map<int, std::string> took;
    for (const int ranks : {2, 8, 33, 34, 48}) {
      run_ranks(ranks, [&](Communicator& comm) {
        layers::LocalRunner local;
        SplitRunner runner(comm, local);
        const ag::NoGrad no_grad;
        runner.run(scan, std::vector<ag::Var>(list.begin(), list.end()), attrs,
                   layers::Stretch(1, ranks).piece(comm.rank(), comm.rank() + 1),
                   {.slot = "scan", .fresh = {}});
        if (comm.rank() == 0) {
          took[ranks] = runner.taken().at("scan");
        }
      });
    }
    CHECK(took == std::map<int, std::string>{
                      {2, "gather"}, {8, "gather"}, {33, "gather"}, {34, "tree"}, {48, "tree"}});
    double least = 0;
    for (const Index ranks : {64, 4096}) {
      const SplitSizes sizes = split_sizes(scan, list, attrs.get(), ranks, 1, ranks);
      const double held = strategy_registry().at("tree")->payload(sizes).held;
      CHECK((least == 0 || held == least));
      least = held;
      CHECK(strategy_registry().at("gather")->payload(sizes).held ==
            static_cast<double>((ranks - 1) * (sizes.state + sizes.transition)));
    }
  }

  TEST_CASE("auto: few messages for small states, pieces for large ones on many ranks") {
    const auto cheapest = [](const SplitSizes& s) {
      std::string best;
      double least = 0;
      for (const char* const name : {"gather", "tree", "all_scan", "ring"}) {
        const double cost = strategy_registry().at(name)->payload(s).cost();
        if (best.empty() || cost < least) {
          best = name;
          least = cost;
        }
      }
      return best;
    };
    constexpr Index kLarge = Index{8} << 20;
    const auto of = [](Index ranks, Index state, Index transition) {
      return SplitSizes{
          .ranks = ranks, .state = state, .transition = transition, .handed = state, .pieces = 8};
    };
    CHECK(cheapest(of(4, 1 << 10, 1 << 6)) == "gather");
    CHECK(cheapest(of(64, 1 << 14, 1 << 8)) == "tree");
    CHECK(cheapest(of(8, kLarge, kLarge)) == "all_scan");
  }
}

}  // namespace ls::parallel
