#pragma once
// How the ranks that hold the stretches of one sequence run a scan over all of it.
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/registry.h"
#include "core/comm/comm.h"
#include "layers/seq_runner.h"
#include "parallel/sequence/messages.h"

namespace ls::parallel {

/// A scan as SplitRunner is asked for it.
struct SplitCall {
  const layers::ScanInfo& scan;
  std::vector<ag::Var> inputs;
  std::shared_ptr<const void> attrs;
  const layers::Stretch& stretch;
  const layers::ScanCall& call;
  /// Ranks numbered as the stretch is read; a node of the tape holds it.
  std::shared_ptr<Communicator> comm;
  layers::SeqRunner& local;  ///< outlives the node too
};

/// What `auto` decides by, the same on every rank.
struct RankExtents {
  Index fewest = 0;           ///< tokens of the scan on the rank that has the fewest
  Index most = 0, total = 0;  ///< on the rank that has the most, and on all
};

/// A scan as strategies are asked whether they serve it: the same on every rank.
struct AskedScan {
  const layers::ScanInfo& scan;
  Index reach = 0;  ///< tokens that the outgoing state reaches back; 0: all
  RankExtents extents = {};
  bool merges = false;  ///< outputs over parts of the keys can be merged (ScanInfo::merged_by)
};

/// Bytes of one scan that go over ranks, or may.
struct SplitSizes {
  Index ranks = 1;
  Index tokens = 0, total = 0;  ///< of one rank, and of all
  /// Of a summary of the rank's tokens: the states, and its transition. 0 where there is none.
  Index state = 0, transition = 0;
  Index handed = 0;  ///< of states as the last rank gets them: rows of keys add up
  Index parts = 1;   ///< of heads or rows, worked on in turns
  Index pieces = 1;  ///< that the states of a part fall into (StatePieces)
  /// Of a token's inputs and outputs: with an axis of heads, of columns of values, and of all.
  struct OfToken {
    Index heads = 0, columns = 0, all = 0;
  };
  OfToken in, out;
  /// Into how many equal parts heads and columns fall; 0: there are none.
  Index head_units = 0, column_units = 0;
};
/// Those of a stretch whose rank has so many `tokens` of `total`; the same on every rank for the
/// same tokens.
SplitSizes split_sizes(const layers::ScanInfo& scan, const Tensors& inputs, const void* attrs,
                       Index ranks, Index tokens, Index total);
/// Of the sequence inputs, of all rows.
Index token_bytes(const layers::ScanInfo& scan, const Tensors& inputs);

/// Parts of the heads that are worked on in turns.
inline constexpr int kHeadParts = 2;

/// What a strategy sends in a forward pass, headers and what is told of documents not counted.
struct Payload {
  double sent = 0;   ///< bytes by the rank that sends the most
  double path = 0;   ///< bytes one after the other until the last rank can run its tokens
  double steps = 1;  ///< messages of which each waits for the one before
  double held = 0;   ///< bytes of other ranks that a rank has at once, at most
  /// A message counts as so many bytes on the way.
  static constexpr double kMessage = 64 * 1024;
  double cost() const { return path + steps * kMessage; }
  /// `auto` lets a rank hold what so many others have, where another strategy does with less: what
  /// is held does not grow with the ranks beyond.
  static constexpr Index kMostHeld = 32;
};

class Strategy {
 public:
  virtual ~Strategy() = default;
  std::string_view help;  ///< one line, for lists
  /// Can it run this scan?
  virtual bool serves(const AskedScan& asked) const = 0;
  virtual Payload payload(const SplitSizes& sizes) const = 0;
  /// The op's outputs, as SplitRunner::run says. Where a tape records, one node that runs on every
  /// rank in both directions (NodeFn::must_run).
  virtual std::vector<ag::Var> run(SplitCall call) const = 0;
};

/// One rank's part of a scan as a strategy that hands states on sees it. In the backward pass
/// states are gradients of states and the ranks are numbered from the last: a strategy serves both
/// directions unchanged. An undefined state is zero.
class RankScan {
 public:
  virtual ~RankScan() = default;
  /// What comes into the first rank; the same on every rank, which need not all ask.
  virtual Tensors initial() = 0;
  /// What this rank's tokens do to any incoming state.
  virtual Tensors summary() = 0;
  /// Number of its tensors.
  virtual std::size_t summary_size() const = 0;
  /// Does what needs no incoming state, where that is work of its own: of a rank whose summary
  /// nobody hears of, before it waits.
  virtual void begin_tokens() {}
  virtual Tensors act(const Tensors& summary, const Tensors& states) = 0;
  /// The summary of two neighbours.
  virtual Tensors compose(const Tensors& earlier, const Tensors& later) = 0;
  /// Pieces of states that know nothing of one another, as many on every rank.
  virtual int pieces() = 0;
  /// One of them, of a list of states or of a summary; and all of them put together.
  virtual Tensors piece(const Tensors& list, int which) = 0;
  virtual Tensors joined(const std::vector<Tensors>& pieces) = 0;
  /// Runs this rank's tokens, once; the outgoing states.
  virtual Tensors run(const Tensors& states) = 0;
  /// Number of tensors of a list of states.
  virtual std::size_t states() const = 0;
  /// On which states and summaries lie.
  virtual Device& device() const = 0;
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

/// States go from rank to rank; heads are cut in two where they can be, and one half is worked on
/// while what the other waits for is under way.
class HandingStrategy : public Strategy {
 public:
  std::vector<ag::Var> run(SplitCall call) const final;
  /// Works out what other ranks wait for and puts it under way; waits for none of them, since more
  /// scans are begun before the first is finished. Both outlive the exchange.
  virtual std::unique_ptr<Exchange> begin(RankScan& scan, Communicator& comm) const = 0;
};

/// States have a shape of their own, whatever the tokens: no rows of a window or of all tokens.
bool has_fixed_states(const layers::ScanInfo& scan);

/// By name: "halo", "gather", "relay", ...
Registry<const Strategy*>& strategy_registry();

inline const Strategy* described(Strategy* strategy, std::string_view help) {
  strategy->help = help;
  return strategy;
}

}  // namespace ls::parallel

/// In parallel/sequence/strategies/NAME.cpp.
#define LS_STRATEGY(Type, name, help)                     \
  [[maybe_unused]] static const bool ls_strategy_##Type = \
      ::ls::parallel::strategy_registry().add(name, ::ls::parallel::described(new Type, help))
