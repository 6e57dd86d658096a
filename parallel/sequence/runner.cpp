#include "parallel/sequence/runner.h"

#include <algorithm>
#include <numeric>

#include "core/base/log.h"
#include "parallel/sequence/part.h"

namespace ls::parallel {

Registry<const Strategy*>& strategy_registry() {
  static auto* const registry = new Registry<const Strategy*>("strategy");
  return *registry;
}

bool has_fixed_states(const layers::ScanInfo& scan) {
  return scan.kind == layers::FamilyKind::kFixed &&
         scan.transition != &layers::transitions::kConcatenation;
}

using ag::Var;
using layers::ScanInfo;
using Vars = std::vector<Var>;

SplitRunner::SplitRunner(Communicator& comm, layers::SeqRunner& local, const std::string& strategy)
    : comm_(comm), local_(local), strategy_(strategy) {
  if (strategy != "auto") {
    strategy_registry().at(strategy);
  }
}

RankExtents SplitRunner::extents_of(const ScanInfo& scan, Index reach, Index tokens) {
  RankExtents e{.fewest = tokens, .most = tokens, .total = tokens};
  if (reach > 0 || scan.kind == layers::FamilyKind::kGrowing) {
    std::vector<Index> all(static_cast<std::size_t>(comm_.size()));
    comm_.all_gather(&tokens, all.data(), 1, DType::kI64);
    e = {.fewest = *std::ranges::min_element(all),
         .most = *std::ranges::max_element(all),
         .total = std::accumulate(all.begin(), all.end(), Index{0})};
  }
  return e;
}

const Strategy& SplitRunner::choose(const ScanInfo& scan, const Vars& inputs, const void* attrs,
                                    const layers::Stretch& stretch, const layers::ScanCall& call) {
  Tensors in;
  for (const Var& v : inputs) {
    in.push_back(value_of(v));
  }
  const Index reach = scan.reach ? scan.reach(in, attrs) : 0;
  const bool fresh =
      std::ranges::any_of(call.fresh, [](const Var& state) { return state.defined(); });
  const AskedScan asked{
      .scan = scan,
      .reach = reach,
      .extents = extents_of(scan, reach, stretch.tokens() * call.updates),
      .merges = !scan.merged_by.empty() && !fresh && (!scan.merges || scan.merges(in, attrs))};
  const bool named = strategy_ != "auto" && strategy_registry().at(strategy_)->serves(asked);
  served_ = served_ || named;
  const std::string& name = named ? strategy_ : cheapest(asked, in, attrs);
  if (taken_.contains(call.slot)) {  // a whole pass has been seen
    check_taken();
  }
  if (std::string& before = taken_[call.slot]; before != name) {
    before = name;
    if (comm_.rank() == 0 && comm_.size() > 1) {
      log(LogLevel::kDebug, "a scan is split over ranks",
          {{"slot", call.slot},
           {"scan", scan.op->name},
           {"ranks", std::to_string(comm_.size())},
           {"strategy", name}});
    }
  }
  return *strategy_registry().at(name);
}

void SplitRunner::check_taken() const {
  std::string all;
  for (const auto& [slot, name] : taken_) {
    all += (all.empty() ? "" : ", ") + slot + ": " + name;
  }
  LS_CHECK(strategy_ == "auto" || served_ || taken_.empty(), kUnsupported,
           "strategy '{}' serves none of the scans over {} ranks; they took {}. Use auto, or one "
           "that serves",
           strategy_, comm_.size(), all);
}

const std::string& SplitRunner::cheapest(const AskedScan& asked, const Tensors& in,
                                         const void* attrs) {
  const ScanInfo& scan = asked.scan;
  const RankExtents& extents = asked.extents;
  // In this order where they cost the same. What sends tokens is for states that grow with them.
  const bool grows = scan.kind == layers::FamilyKind::kGrowing;
  const std::vector<std::string> names =
      grows ? std::vector<std::string>{"gather", "all_to_all", "ring_attention"}
            : std::vector<std::string>{"halo",     "gather", "tree",
                                       "all_scan", "ring",   "ring_attention"};
  const auto key = std::tuple(&scan, token_bytes(scan, in), asked.merges, asked.reach,
                              extents.fewest >= asked.reach, grows ? extents.most : 0,
                              grows ? extents.total : 0);
  if (const auto known = chosen_.find(key); known != chosen_.end()) {
    return known->second;
  }
  std::string best = "relay";
  Payload least;
  bool some = false;
  if (scan.kind != layers::FamilyKind::kRelay) {
    const SplitSizes sizes =
        split_sizes(scan, in, attrs, comm_.size(), extents.most, extents.total);
    const double most = static_cast<double>(Payload::kMostHeld * (sizes.state + sizes.transition));
    for (const std::string& name : names) {
      const Strategy& s = *strategy_registry().at(name);
      if (!s.serves(asked)) {
        continue;
      }
      const Payload p = s.payload(sizes);
      const bool holds_less =
          least.held > most && p.held<least.held, holds_more = p.held> most && p.held > least.held;
      if (!some || holds_less || (!holds_more && p.cost() < least.cost())) {
        best = name;
        least = p;
        some = true;
      }
    }
  }
  if (comm_.rank() == 0 && comm_.size() > 1) {
    log(LogLevel::kDebug, "a strategy was chosen",
        {{"scan", scan.op->name},
         {"ranks", std::to_string(comm_.size())},
         {"strategy", best},
         {"bytes sent", fmt::format("{:.0f}", least.sent)},
         {"bytes held", fmt::format("{:.0f}", least.held)},
         {"steps", fmt::format("{:.0f}", least.steps)}});
  }
  return chosen_.emplace(key, best).first->second;
}

std::shared_ptr<Communicator> SplitRunner::in_order(const layers::Stretch& stretch) {
  if (stretch.direction() == layers::Direction::kBackward) {
    return comm_.reversed();
  }
  return {std::shared_ptr<void>(), &comm_};  // the caller's
}

Vars SplitRunner::run(const ScanInfo& scan, Vars inputs, std::shared_ptr<const void> attrs,
                      const layers::Stretch& stretch, const layers::ScanCall& call) {
  const Strategy& strategy = choose(scan, inputs, attrs.get(), stretch, call);
  return strategy.run({.scan = scan,
                       .inputs = std::move(inputs),
                       .attrs = std::move(attrs),
                       .stretch = stretch,
                       .call = call,
                       .comm = in_order(stretch),
                       .local = local_});
}

std::vector<Index> SplitRunner::seen_after(const layers::Stretch& stretch) {
  std::vector<Index> seen = stretch.seen_after();
  comm_.broadcast(seen.data(), std::ssize(seen), DType::kI64, comm_.size() - 1);
  return seen;
}

}  // namespace ls::parallel
