#include "autograd/recompute.h"

#include "autograd/tape.h"

namespace ls::ag {
namespace {

class RecomputeNode final : public NodeFn {
 public:
  RecomputeNode(Block block, const std::vector<Var>& inputs) : block_(std::move(block)) {
    for (const Var& v : inputs) {
      inputs_.push_back(v.defined() ? Saved(v.value()) : Saved());
      needs_grad_.push_back(v.requires_grad());
    }
  }
  std::string name() const override { return "recompute"; }
  /// The block may hold steps that other ranks wait for.
  bool must_run() const override { return true; }
  void backward(std::span<const Tensor> dout, const std::vector<bool>&,
                std::span<Tensor> din) override {
    std::vector<Var> in;
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      const Tensor& t = inputs_[i].get(name());
      in.push_back(needs_grad_[i] ? Var::leaf(t) : Var(t));
    }
    const EnableGrad enable;
    Tape tape;
    const std::vector<Var> out = block_(in);
    tape.backward(out, dout);
    for (std::size_t i = 0; i < din.size(); ++i) {
      if (needs_grad_[i]) {
        din[i] = in[i].grad();
      }
    }
  }

 private:
  Block block_;
  std::vector<Saved> inputs_;
  std::vector<bool> needs_grad_;
};

}  // namespace

std::vector<Var> recompute(const Block& block, const std::vector<Var>& inputs) {
  Tape* const tape = Tape::current();
  if (!tape || !grad_enabled()) {
    return block(inputs);
  }
  std::vector<Tensor> values;
  {
    const NoGrad no_grad;
    for (const Var& v : block(inputs)) {
      values.push_back(v.defined() ? v.value() : Tensor());
    }
  }
  return tape->record(std::make_unique<RecomputeNode>(block, inputs), inputs, values);
}

}  // namespace ls::ag
