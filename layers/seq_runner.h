#pragma once
// Where a scan runs: on this process alone, or split over ranks. Mixers do not know which.
#include <memory>
#include <string>
#include <vector>

#include "autograd/call.h"
#include "layers/scan/scan.h"
#include "layers/stretch.h"

namespace ls::layers {

/// What a runner is told of one scan besides the stretch.
struct ScanCall {
  std::string slot;   ///< unique in the model: "blocks.0.mixer.scan"
  Index updates = 1;  ///< tokens of the scan for each token of the stretch
  bool keep = true;   ///< outgoing states are wanted
  /// Incoming states hold for rows that have seen no token too: another rank began them.
  bool begun = false;
  /// By port, [1,...]: the state that a document starts from; undefined, or none at all: zeros.
  std::vector<ag::Var> fresh;
  /// By output, or none at all: memory where it is wanted, undefined or a slice. It may come
  /// elsewhere all the same.
  std::vector<Tensor> places = {};
};

/// How scans of one forward pass are run; chosen in SeqOptions.
class SeqRunner {
 public:
  virtual ~SeqRunner() = default;
  /// The op's outputs for these inputs, both in contract order. Sequences are [B,T*updates,...];
  /// states that come in and go out have one entry a row, absent ones are
  /// undefined, as boundary inputs are. `attrs` points to the op's Attrs, form and chunk set.
  virtual std::vector<ag::Var> run(const ScanInfo& scan, std::vector<ag::Var> inputs,
                                   std::shared_ptr<const void> attrs, const Stretch& stretch,
                                   const ScanCall& call) = 0;
  /// By row, tokens of its document that the outgoing states of a stretch have seen. Called on
  /// every rank where states are kept.
  virtual std::vector<Index> seen_after(const Stretch& stretch) { return stretch.seen_after(); }
};

/// Calls the op, and tells it of documents by offsets or by the first tokens that queries see.
class LocalRunner final : public SeqRunner {
 public:
  std::vector<ag::Var> run(const ScanInfo& scan, std::vector<ag::Var> inputs,
                           std::shared_ptr<const void> attrs, const Stretch& stretch,
                           const ScanCall& call) override;
};

/// The states [B,...] that rows start from, of port `port`: `carried` (undefined: nothing) where a
/// row's document began before the stretch, else the call's fresh one (undefined: zeros; both
/// undefined: undefined).
ag::Var first_states(const ag::Var& carried, std::size_t port, const Stretch& stretch,
                     const ScanCall& call);

}  // namespace ls::layers
