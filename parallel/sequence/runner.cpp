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
                                    const layers::Stretch& stretch, Index updates) {
  Tensors in;
  for (const Var& v : inputs) {
    in.push_back(value_of(v));
  }
  const Index reach = scan.reach ? scan.reach(in, attrs) : 0;
  const RankExtents extents = extents_of(scan, reach, stretch.tokens() * updates);
  if (strategy_ == "auto") {
    return cheapest(scan, in, attrs, reach, extents);
  }
  const Strategy& s = *strategy_registry().at(strategy_);
  LS_CHECK(s.serves(scan, reach, extents), kUnsupported,
           "strategy '{}' does not serve op {} over {} ranks (family {}, {}; fewest tokens of a "
           "rank {}, reach {}); use auto or relay",
           strategy_, scan.op->name, comm_.size(), scan.family, enum_name(scan.kind),
           extents.fewest, reach);
  return s;
}

const Strategy& SplitRunner::cheapest(const ScanInfo& scan, const Tensors& in, const void* attrs,
                                      Index reach, const RankExtents& extents) {
  // In this order where they cost the same. What sends tokens is for states that grow with them.
  const bool grows = scan.kind == layers::FamilyKind::kGrowing;
  const std::vector<std::string> names =
      grows ? std::vector<std::string>{"gather", "all_to_all"}
            : std::vector<std::string>{"halo", "gather", "tree", "all_scan", "ring"};
  const auto key = std::tuple(&scan, token_bytes(scan, in), reach, extents.fewest >= reach,
                              grows ? extents.most : 0, grows ? extents.total : 0);
  if (const auto known = chosen_.find(key); known != chosen_.end()) {
    return *known->second;
  }
  const Strategy* best = nullptr;
  Payload least;
  std::string name = "relay";
  if (scan.kind != layers::FamilyKind::kRelay) {
    const SplitSizes sizes =
        split_sizes(scan, in, attrs, comm_.size(), extents.most, extents.total);
    for (const std::string& n : names) {
      const Strategy& s = *strategy_registry().at(n);
      if (!s.serves(scan, reach, extents)) {
        continue;
      }
      const Payload p = s.payload(sizes);
      if (!best || p.cost() < least.cost()) {
        best = &s;
        least = p;
        name = n;
      }
    }
  }
  if (!best) {
    best = strategy_registry().at(name);
  }
  if (comm_.rank() == 0 && comm_.size() > 1) {
    log(LogLevel::kDebug, "a scan is split over ranks",
        {{"scan", scan.op->name},
         {"ranks", std::to_string(comm_.size())},
         {"strategy", name},
         {"bytes sent", fmt::format("{:.0f}", least.sent)},
         {"steps", fmt::format("{:.0f}", least.steps)}});
  }
  chosen_.emplace(key, best);
  return *best;
}

std::shared_ptr<Communicator> SplitRunner::in_order(const layers::Stretch& stretch) {
  if (stretch.direction() == layers::Direction::kBackward) {
    return comm_.reversed();
  }
  return {std::shared_ptr<void>(), &comm_};  // the caller's
}

Vars SplitRunner::run(const ScanInfo& scan, Vars inputs, std::shared_ptr<const void> attrs,
                      const layers::Stretch& stretch, const layers::ScanCall& call) {
  const Strategy& strategy = choose(scan, inputs, attrs.get(), stretch, call.updates);
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
