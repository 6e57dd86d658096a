// Every registered scan, its sequence split over ranks (threads), gives the outputs and gradients
// of one rank: with documents, several updates a token, carried and fresh states, empty ranks,
// ranks without a gradient, read forward and backward, in every type; and strategies that are wrong
// in one way do not.
#include <doctest/doctest.h>

#include <mutex>

#include "autograd/tape.h"
#include "core/comm/thread_comm.h"
#include "parallel/sequence/runner.h"
#include "tests/support/counting.h"
#include "tests/support/errors.h"
#include "tests/support/split_case.h"

using namespace ls;
using namespace ls::layers;
using namespace ls::test;

namespace {

using Cuts = SplitCase::Cuts;
using Documents = SplitCase::Documents;
using Gradients = SplitCase::Gradients;

/// A gather that is wrong in one way.
class WrongExchange final : public parallel::Exchange {
 public:
  enum class Fault : std::uint8_t { kSkipsNeighbor, kWrongOrder, kOwnPart, kLosesOne };
  WrongExchange(parallel::RankScan& scan, Communicator& comm, Fault fault)
      : scan_(scan),
        rank_(static_cast<std::size_t>(comm.rank())),
        fault_(fault),
        all_(parallel::begin_gather(comm, scan.summary(), scan.device())) {}
  Tensors finish() override {
    const std::vector<Tensors> all = all_.wait();
    Tensors state = scan_.initial();
    for (std::size_t r = 0; r < rank_; ++r) {
      const std::size_t of = fault_ == Fault::kWrongOrder ? rank_ - 1 - r : r;
      const bool skips = fault_ == Fault::kOwnPart ||
                         (fault_ == Fault::kSkipsNeighbor && r + 1 == rank_) ||
                         (fault_ == Fault::kLosesOne && r == 1);
      if (!skips) {
        state = scan_.act(all[of], state);
      }
    }
    return scan_.run(state);
  }

 private:
  parallel::RankScan& scan_;
  std::size_t rank_;
  Fault fault_;
  parallel::PendingLists all_;
};

template <WrongExchange::Fault kFault>
class Wrong : public parallel::HandingStrategy {
 public:
  bool serves(const parallel::AskedScan& asked) const override {
    return parallel::has_fixed_states(asked.scan);
  }
  parallel::Payload payload(const parallel::SplitSizes&) const override { return {}; }
  std::unique_ptr<parallel::Exchange> begin(parallel::RankScan& scan,
                                            Communicator& comm) const override {
    return std::make_unique<WrongExchange>(scan, comm, kFault);
  }
};
using WrongSkips = Wrong<WrongExchange::Fault::kSkipsNeighbor>;
using WrongTurns = Wrong<WrongExchange::Fault::kWrongOrder>;
using WrongPart = Wrong<WrongExchange::Fault::kOwnPart>;
using WrongLoss = Wrong<WrongExchange::Fault::kLosesOne>;
LS_STRATEGY(WrongSkips, "wrong_skips_neighbor", "deliberately wrong");
LS_STRATEGY(WrongTurns, "wrong_order", "deliberately wrong");
LS_STRATEGY(WrongPart, "wrong_own_part", "deliberately wrong");
LS_STRATEGY(WrongLoss, "wrong_loses_one", "deliberately wrong");

/// Of one direction alone: a node whose gradients are those of the rank's own tokens.
class WrongBackward final : public parallel::Strategy {
 public:
  bool serves(const parallel::AskedScan& asked) const override {
    return parallel::has_fixed_states(asked.scan);
  }
  parallel::Payload payload(const parallel::SplitSizes&) const override { return {}; }
  std::vector<ag::Var> run(parallel::SplitCall call) const override {
    const std::vector<ag::Var> inputs = call.inputs;
    layers::SeqRunner& local = call.local;
    const layers::Stretch stretch = call.stretch;
    const layers::ScanCall how = call.call;
    const auto attrs = call.attrs;
    const ScanInfo& scan = call.scan;
    std::vector<ag::Var> right;
    {
      const ag::NoGrad no_grad;
      right = parallel::strategy_registry().at("gather")->run(std::move(call));
    }
    const std::vector<ag::Var> own = local.run(scan, inputs, attrs, stretch, how);
    const ag::NoGrad no_grad;
    for (std::size_t i = 0; i < own.size(); ++i) {
      if (own[i].defined() && !scan.op->out[i].saved) {
        ag::Var(own[i]).mutable_value().copy_(right[i].value());
      }
    }
    return own;
  }
};
LS_STRATEGY(WrongBackward, "wrong_backward", "deliberately wrong");

/// On 1, 2 and 4 ranks, with and without silent ones; or on some of these.
void check(SplitCase& split, const std::string& what, const std::string& strategy, bool few) {
  for (const int ranks : {1, 2, 4}) {
    for (const Gradients gradients : {Gradients::kAll, Gradients::kLastRank}) {
      const bool silent = gradients == Gradients::kLastRank;
      if (!few || (ranks > 1 && !silent)) {
        const std::string faults = split.differs(ranks, strategy, gradients);
        CHECK_MESSAGE(faults.empty(), what << ", " << ranks << " ranks, " << strategy
                                           << (silent ? ", silent" : "") << ":" << faults);
      }
    }
  }
}

std::vector<std::string> strategies_for(const ScanInfo& scan) {
  std::vector<std::string> names{"auto"};
  for (const std::string& s : parallel::strategy_registry().names()) {
    const parallel::AskedScan any{.scan = scan, .merges = !scan.merged_by.empty()};
    if (!s.starts_with("wrong_") && parallel::strategy_registry().at(s)->serves(any)) {
      names.push_back(s);
    }
  }
  return names;
}

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("scans split over ranks") {
    for (const std::string& name : scan_registry().names()) {
      SUBCASE(name.c_str()) {
        const ScanInfo& scan = *scan_registry().at(name);
        const std::vector<ScanCase> cases = (*scan_cases().find(name))();
        const std::vector<Index> updates =
            scan.boundary == Boundary::kOffsets ? std::vector<Index>{1, 2} : std::vector<Index>{1};
        for (const ScanCase& c : cases) {
          for (const Index n : updates) {
            for (const Documents documents : {Documents::kNone, Documents::kSome}) {
              for (const bool backward : {false, true}) {
                SplitCase split(scan, c,
                                {.documents = documents, .updates = n, .backward = backward});
                const std::string what =
                    fmt::format("{}{}{}, {} updates", c.name,
                                documents == Documents::kSome ? ", documents" : "",
                                backward ? ", backward" : "", n);
                for (const std::string& strategy : strategies_for(scan)) {
                  check(split, what, strategy, n > 1 || backward);
                }
              }
            }
          }
        }
      }
    }
  }

  TEST_CASE("scans split over ranks where others were found wrong") {
    for (const std::string& name : scan_registry().names()) {
      SUBCASE(name.c_str()) {
        const ScanInfo& scan = *scan_registry().at(name);
        const std::vector<ScanCase> cases = (*scan_cases().find(name))();
        for (const ScanCase& c : cases) {
          for (const std::string& strategy : strategies_for(scan)) {
            const auto is_right = [&](const std::string& how, SplitCase& split, int ranks,
                                      Gradients gradients, Cuts cuts) {
              const std::string faults = split.differs(ranks, strategy, gradients, cuts);
              CHECK_MESSAGE(faults.empty(),
                            c.name << ", " << how << ", " << strategy << ":" << faults);
            };
            SplitCase at_cuts(scan, c, {.documents = Documents::kAtCuts}),
                many(scan, c, {.documents = Documents::kMany}), plain(scan, c, {});
            is_right("documents that begin around cuts", at_cuts, 4, Gradients::kAll, Cuts::kEven);
            is_right("a rank with many documents", many, 4, Gradients::kAll, Cuts::kEven);
            is_right("a gradient of the last token alone", plain, 3, Gradients::kLastToken,
                     Cuts::kEven);
            is_right("documents, the last rank without tokens", at_cuts, 3, Gradients::kAll,
                     Cuts::kLastEmpty);
            is_right("all tokens on the first rank", many, 3, Gradients::kAll, Cuts::kFirstAll);
            is_right("more ranks than heads or columns", plain, 7, Gradients::kAll, Cuts::kEven);
          }
        }
      }
    }
  }

  TEST_CASE("scans split over ranks in f32 and bf16") {
    for (const std::string& name : scan_registry().names()) {
      SUBCASE(name.c_str()) {
        const ScanInfo& scan = *scan_registry().at(name);
        const std::vector<ScanCase> cases = (*scan_cases().find(name))();
        for (const ScanCase& c : cases) {
          for (const DType type : {DType::kF32, DType::kBF16}) {
            for (const Documents documents : {Documents::kNone, Documents::kAtCuts}) {
              SplitCase split(scan, c, {.documents = documents, .type = type});
              for (const std::string& strategy : strategies_for(scan)) {
                const std::string faults = split.differs(4, strategy, Gradients::kAll, Cuts::kEven);
                CHECK_MESSAGE(faults.empty(), c.name << ", " << enum_name(type) << ", " << strategy
                                                     << ":" << faults);
              }
            }
          }
        }
      }
    }
  }

  TEST_CASE("ranks meet as often for many documents as for none") {
    for (const std::string& name : scan_registry().names()) {
      const ScanInfo& scan = *scan_registry().at(name);
      const std::vector<ScanCase> cases = (*scan_cases().find(name))();
      for (const std::string& strategy : strategies_for(scan)) {
        const auto calls = [&](Documents documents) {
          Index most = 0;
          std::mutex mutex;
          // Documents that start from zeros: what others start from is told in one message more.
          SplitCase split(scan, cases.front(), {.documents = documents, .fresh = false});
          const auto counted = [&](int ranks, const auto& body) {
            return SplitCase::on_threads(ranks, [&](Communicator& comm) {
              Counting counting(comm);
              SplitCase::Called called = body(counting);
              const std::lock_guard lock(mutex);
              most = std::max(most, counting.calls());
              return called;
            });
          };
          CHECK(split.differs(3, strategy, Gradients::kAll, Cuts::kEven, counted) == "");
          return most;
        };
        CAPTURE(name);
        CAPTURE(strategy);
        CHECK(calls(Documents::kMany) <= calls(Documents::kNone));
      }
    }
  }

  TEST_CASE("strategies that are wrong are caught") {
    for (const std::string& strategy : parallel::strategy_registry().names()) {
      if (!strategy.starts_with("wrong_")) {
        continue;
      }
      for (const char* const name : {"decayed_linear", "delta_rule", "mlstm"}) {
        CAPTURE(strategy);
        CAPTURE(name);
        const std::vector<ScanCase> cases = (*scan_cases().find(name))();
        bool caught = false;
        for (const ScanCase& c : cases) {
          SplitCase split(*scan_registry().at(name), c, {});
          caught = caught || !split.differs(4, strategy).empty();
        }
        CHECK(caught);
      }
    }
  }

  TEST_CASE("a named strategy runs the scans that it serves, and none is an error") {
    const auto taken = [](const std::string& name, const std::string& strategy) {
      const ScanInfo& scan = *scan_registry().at(name);
      const ScanCase c = (*scan_cases().find(name))().front();
      std::string took, error;
      run_ranks(2, [&](Communicator& comm) {
        LocalRunner local;
        parallel::SplitRunner runner(comm, local, strategy);
        std::vector<ag::Var> in;
        for (std::size_t i = 0; i < c.in.size(); ++i) {
          const bool cut = c.in[i].defined() && is_sequence(scan.op->in[i]);
          in.emplace_back(cut ? c.in[i].slice(1, 0, 1).contiguous() : c.in[i]);
        }
        const ag::NoGrad no_grad;
        runner.run(scan, in, c.attrs, Stretch(in[0].size(0), 2).piece(comm.rank(), comm.rank() + 1),
                   {.slot = "blocks.0.mixer.scan", .fresh = {}});
        if (comm.rank() == 0) {
          took = runner.taken().at("blocks.0.mixer.scan");
          error = message([&] { runner.check_taken(); });
        }
        const auto again = [&] {
          runner.run(scan, in, c.attrs,
                     Stretch(in[0].size(0), 2).piece(comm.rank(), comm.rank() + 1),
                     {.slot = "blocks.0.mixer.scan", .fresh = {}});
        };
        if (strategy == "ring_attention") {
          CHECK(says(message(again), "serves none"));
        } else {
          again();
        }
      });
      return std::pair(took, error);
    };
    CHECK(taken("delta_rule", "tree") ==
          std::pair<std::string, std::string>("tree", "nothing thrown"));
    CHECK(taken("attention", "zig_zag").first == "zig_zag");
    const auto [took, error] = taken("lstm", "ring_attention");
    CHECK(took == "relay");
    CHECK(says(error, "'ring_attention' serves none"));
    CHECK(says(error, "blocks.0.mixer.scan: relay"));
  }
}
