#pragma once
// One model on two rows of tokens: what the laws of mixers (tests/support/mixer_laws.h) share. Each
// group of laws is a file beside this one.
#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "autograd/functional.h"
#include "core/base/parallel_for.h"
#include "tests/support/mixer_laws.h"

namespace ls::test::mixers {

using layers::DocumentStarts;
using layers::Model;
using layers::ModelConfig;
using layers::ModelState;
using layers::SeqContext;
using layers::SeqOptions;
using layers::TokenMixer;

constexpr Index kRows = 2, kTokens = 23, kHistory = 6, kLater = 8;
// Ids: the history of both rows, then the tokens, then those that follow.
constexpr Index kVocab = kRows * (kHistory + kTokens + kLater);

Tensor history_ids();
Tensor main_ids();
Tensor later_ids();
/// A fixed draw for each name.
Tensor normal(const Shape& shape, DType type, const std::string& name);
std::unique_ptr<Model> build(ModelConfig config, const std::string& dtype, bool recompute = false);
ModelState leaves_of(const ModelState& state);

/// Work this small would spend its time waiting for threads.
struct OneThread {
  OneThread() { set_num_threads(1); }
  ~OneThread() { set_num_threads(0); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;
};

/// What a run over some pieces gives.
struct Run {
  Tensor out;                               // [B,T,V]
  ModelState state = {};                    // after the last token
  std::vector<Tensor> gradients = {};       // of parameters, undefined where none arrives
  std::map<std::string, Tensor> into = {};  // of the incoming states
  // The same on another model, from the history.
  std::function<Run(Model&, const ModelState&)> again = {};
};

struct Way {
  std::vector<Index> cuts = {};
  Form form = Form::kAuto;
  Index chunk = 0;
  bool state_leaves = true;      // the incoming states want gradients
  bool state_cotangents = true;  // gradients arrive at the outgoing states
  bool keep_states = true;
  const DocumentStarts* documents = nullptr;
  const std::vector<Index>*seen = nullptr, *left = nullptr;
  layers::SeqRunner* runner = nullptr;
};

class Checker {
 public:
  Checker(const MixerCase& c, std::string dtype)
      : case_(c),
        dtype_(std::move(dtype)),
        // Each layer hands its rounding on to the next.
        roundings_(static_cast<double>(2 + c.config.layers.size())),
        tolerance_((dtype_ == "f64" ? 3e-12 : 2e-5) * roundings_) {}
  std::vector<std::string> run();
  /// The law `ranks` alone, of ranks that have tokens, where scans are split by this strategy.
  std::vector<std::string> run_ranks_by(const std::string& strategy);

 private:
  bool prepare();
  void law(const std::string& name, const std::function<void()>& f);
  void fault(const std::string& law, const std::string& what);
  /// Forward and backward over the pieces that `way.cuts` ends, on one tape.
  static Run pass(Model& m, const Tensor& tokens, const ModelState* incoming, const Way& way,
                  const std::function<Tensor(Tensor)>& seed = {});
  /// Values of `got` within the tolerance of `want`, relative to its size or to `floor`, or within
  /// `move`.
  void same(const std::string& law, const std::string& what, const Tensor& got, const Tensor& want,
            double tolerance, double floor = 0, double move = 0);
  void same_states(const std::string& law, const ModelState& got, const ModelState& want,
                   double tolerance);
  static double largest(const std::vector<Tensor>& tensors);
  void same_gradients(const std::string& law, const Run& got, const Run& want, double tolerance);
  /// How far each gradient of a run may be off in f32 because the problem is badly conditioned, as
  /// where a norm divides by an output that has almost cancelled: what it moves by in f64 when
  /// every weight is moved by one rounding of f32, a rounding for each layer; the largest of
  /// several draws. Those of parameters stand first.
  std::vector<double> moves(const Run& run) const;
  void same_runs(const std::string& law, const Run& got, const Run& want);
  void same_runs(const std::string& law, const Run& got, const Run& want, double tolerance);

  void causal();
  void sees_ahead();                                                   // causal.cpp
  void split(const std::string& law, const std::vector<Index>& cuts);  // split.cpp
  void forms();
  void taken();
  void ranks();  // ranks.cpp
  struct Split {
    std::array<Index, 4> cuts;
    std::string strategy = "auto";
  };
  void ranks(const std::string& law, const DocumentStarts& documents, bool recompute,
             const Split& split);
  void packed();  // rows.cpp
  void rows();
  void save();  // save.cpp
  void recompute();
  void remake();
  void derivative();  // derivative.cpp

  const MixerCase& case_;
  std::string dtype_;
  double roundings_, tolerance_;
  std::unique_ptr<Model> model_;
  ModelState history_;  // of mixers that are not causal: none
  Run from_zero_, whole_;
  std::vector<std::string> faults_;
};

}  // namespace ls::test::mixers
