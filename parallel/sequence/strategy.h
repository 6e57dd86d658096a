#pragma once
// How the ranks that hold the stretches of one sequence hand its state on.
#include <memory>
#include <string>
#include <vector>

#include "core/base/registry.h"
#include "core/comm/comm.h"
#include "layers/scan/scan.h"
#include "parallel/sequence/messages.h"

namespace ls::parallel {

/// One rank's part of a scan as a strategy sees it. In the backward pass states are gradients of
/// states and the ranks are numbered from the last: a strategy serves both directions unchanged.
/// An undefined state is zero.
class RankScan {
 public:
  virtual ~RankScan() = default;
  /// What comes into the first rank; the same on every rank, which need not all ask.
  virtual Tensors initial() = 0;
  /// What this rank's tokens do to any incoming state.
  virtual Tensors summary() = 0;
  virtual Tensors act(const Tensors& summary, const Tensors& states) = 0;
  /// Runs this rank's tokens, once; the outgoing states.
  virtual Tensors run(const Tensors& states) = 0;
  /// Number of tensors of a list of states.
  virtual std::size_t states() const = 0;
  /// On which states and summaries lie.
  virtual Device& device() const = 0;
};

/// What `auto` decides by, the same on every rank.
struct RankExtents {
  Index fewest = 0;  ///< tokens of the scan on the rank that has the fewest
};

/// What one scan waits for, under way.
class Exchange {
 public:
  virtual ~Exchange() = default;
  /// Waits for this rank's incoming states, calls scan.run exactly once, on them, and puts under
  /// way what it leaves. Returns what run returned.
  virtual Tensors finish() = 0;
  /// Until what finish put under way is done. @throws what went wrong
  virtual void settle() {}
};

class Strategy {
 public:
  virtual ~Strategy() = default;
  /// Can it run this scan, under these attributes and extents?
  virtual bool serves(const layers::ScanInfo& scan, Index reach,
                      const RankExtents& extents) const = 0;
  /// Works out what other ranks wait for and puts it under way; waits for none of them, since more
  /// scans are begun before the first is finished. Both outlive the exchange.
  virtual std::unique_ptr<Exchange> begin(RankScan& scan, Communicator& comm) const = 0;
};

/// By name: "halo", "gather", "relay".
Registry<const Strategy*>& strategy_registry();

}  // namespace ls::parallel

/// In parallel/sequence/strategies/NAME.cpp.
#define LS_STRATEGY(Type, name)                           \
  [[maybe_unused]] static const bool ls_strategy_##Type = \
      ::ls::parallel::strategy_registry().add(name, new Type)
