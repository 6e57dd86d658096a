#pragma once
// One rank's tokens of one scan.
#include <memory>
#include <optional>

#include "autograd/tape.h"
#include "layers/seq_runner.h"
#include "parallel/sequence/messages.h"

namespace ls::parallel {

Tensor value_of(const ag::Var& v);

/// Runs them from states that come from other ranks, and derives them when gradients arrive. Its
/// inputs are leaves of a tape of its own. Where the scan has `local`, its summary and outputs come
/// of one run of the op, and the tape holds no more than what states came from.
class Part {
 public:
  using Vars = std::vector<ag::Var>;
  Part(const layers::ScanInfo& scan, const Vars& inputs, std::shared_ptr<const void> attrs,
       const layers::Stretch& stretch, const layers::ScanCall& call, layers::SeqRunner& runner,
       bool recorded);
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  const layers::ScanInfo& scan() const { return scan_; }
  const void* attrs() const { return attrs_.get(); }
  const layers::ScanCall& call() const { return call_; }
  std::size_t states() const { return port_in_.size(); }
  std::size_t port_out(std::size_t p) const { return port_out_[p]; }
  const Vars& out() const { return out_; }
  Device& device() const;

  /// The incoming states of the whole sequence, as this rank was given them.
  Tensors given() const;
  bool has_fresh() const;
  /// States before any token: zeros, or caches without rows.
  Tensors empty_states() const;
  /// Those that the last run began with.
  Tensors incoming() const;
  const Tensors& summary();
  /// Its summary and its outputs without a state come of one run of the op.
  bool runs_locally() const;
  /// A summary, for its shapes; none where the scan has none.
  Tensors like_summary() const;
  /// Runs the tokens, once; `states` null: from those that this rank was given. The outgoing ones.
  Tensors run(const Tensors* states);

  /// Gradients of the incoming states for those of the outputs `dout` and of the outgoing states,
  /// and of everything else for take_gradients.
  Tensors derive(std::span<const Tensor> dout, const Tensors& dstates);
  /// Gradients of the incoming states for those of the outputs alone, as what earlier ranks need to
  /// hear of before later ones are heard.
  Tensors of_outputs(std::span<const Tensor> dout);
  /// Where gradients of the inputs, then of what documents start from, are wanted; undefined:
  /// anywhere.
  void place_gradients(Tensors places);
  /// What the last pass gave them, there or elsewhere; given up, so that leaves need not copy them.
  Tensors take_gradients();

 private:
  ag::Var own(const ag::Var& v) const;
  Tensors states_of(const Vars& out) const;
  /// The inputs without states.
  Tensors values() const;
  Tensors finish(const Tensors* states);
  Tensors seeds(std::span<const Tensor> dout, const Tensors& dstates) const;
  Tensors walk(std::span<const Tensor> seeds, bool again);
  Tensors derive_locally(std::span<const Tensor> seeds);
  Tensor before_documents(const Tensor& of_tokens) const;

  const layers::ScanInfo& scan_;
  std::shared_ptr<const void> attrs_;
  layers::Stretch stretch_;
  layers::ScanCall call_;
  layers::SeqRunner& runner_;
  bool recorded_;
  Vars in_, out_, states_;
  std::vector<std::size_t> port_in_, port_out_;
  Tensors summary_;
  std::optional<layers::LocalPart> local_;
  Tensors places_;
  Tensors din_;  ///< of the inputs, where the part ran locally
  std::unique_ptr<ag::Tape> tape_;
};

}  // namespace ls::parallel
