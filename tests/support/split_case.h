#pragma once
// A scan whose sequence is split over ranks, against one rank: outputs, outgoing states and all
// gradients.
#include <functional>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/comm/comm.h"
#include "layers/seq_runner.h"
#include "tests/support/scan_laws.h"

namespace ls::test {

struct SplitWay {
  enum class Documents : std::uint8_t {
    kNone,
    kSome,    ///< up to three in a row, anywhere
    kAtCuts,  ///< begin at the cuts of four even pieces, a token before or behind
    kMany,    ///< every token of the second quarter begins one
  };
  Documents documents = Documents::kNone;
  Index updates = 1;  ///< tokens of the case for each of the stretch; those left over are left out
  bool backward = false;
  DType type = DType::kF64;
  bool fresh = true;  ///< documents start from states of their own
};

class SplitCase {
 public:
  using Documents = SplitWay::Documents;
  /// Which gradients arrive: at all outputs and states, at outputs of the last rank, or at the last
  /// token alone.
  enum class Gradients : std::uint8_t { kAll, kLastRank, kLastToken };
  enum class Cuts : std::uint8_t {
    kRandom,     ///< of four ranks one is empty, in turns the first
    kEven,       ///< as even as the tokens allow
    kLastEmpty,  ///< the last rank has none
    kFirstAll,   ///< the first has all
  };
  /// Outputs of a call and the gradients of its inputs, then of what documents start from.
  struct Called {
    std::vector<Tensor> out, din;
  };
  /// Runs the body on so many ranks; what it gave on each.
  using Ranks = std::function<std::vector<Called>(int ranks, std::function<Called(Communicator&)>)>;
  static std::vector<Called> on_threads(int ranks,
                                        const std::function<Called(Communicator&)>& body);

  /// Both outlive it.
  SplitCase(const layers::ScanInfo& scan, const ScanCase& scan_case, const SplitWay& way);
  /// What is wrong with a split, or "". In f64 it is one rank's to 1e-12; else it lies no more than
  /// four times as far from f64 as one rank's does, and a few roundings.
  std::string differs(int ranks, const std::string& strategy, Gradients gradients = Gradients::kAll,
                      Cuts cuts = Cuts::kRandom, const Ranks& run = on_threads);

 private:
  using Tensors = std::vector<Tensor>;
  /// What calls are made of: in the type of the case, and the same numbers in f64.
  struct Numbers {
    Tensors x, fresh;
  };
  Tensor tokens(const Tensor& x, Index a, Index b) const;
  void place_documents();
  std::vector<Index> cut(int ranks, Cuts how);
  Tensors seeds(Gradients gradients, const std::vector<Index>& cuts) const;
  Tensor read(const Tensor& x, Index a, Index b) const;
  Tensor in_time(const Tensor& x) const;
  Called call(layers::SeqRunner& runner, const Numbers& numbers, Index a, Index b,
              const Tensors& dout, bool states, bool silent) const;
  Called whole(const Numbers& numbers, const Tensors& dout) const;
  Called joined(const std::vector<Called>& parts) const;
  std::string compared(const std::string& name, const Tensor& got, const Tensor& one,
                       const Tensor& exact) const;

  const layers::ScanInfo& scan_;
  const OpInfo& op_;
  const ScanCase& case_;
  SplitWay way_;
  Rng rng_;
  Index rows_ = 0, tokens_ = 0;
  layers::StretchPlace place_;
  Numbers own_, exact_;
  Tensors cotangent_;
};

}  // namespace ls::test
