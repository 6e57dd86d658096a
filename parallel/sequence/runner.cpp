#include "parallel/sequence/runner.h"

#include "autograd/tape.h"
#include "core/comm/lists.h"
#include "parallel/sequence/part.h"

namespace ls::parallel {

Registry<const Strategy*>& strategy_registry() {
  static auto* const registry = new Registry<const Strategy*>("strategy");
  return *registry;
}

namespace {

using ag::Var;
using layers::ScanInfo;
using Vars = std::vector<Var>;

bool all_undefined(const Tensors& list) {
  return std::none_of(list.begin(), list.end(), [](const Tensor& t) { return t.defined(); });
}

bool all_defined(const Tensors& list) {
  return std::all_of(list.begin(), list.end(), [](const Tensor& t) { return t.defined(); });
}

/// `t` with rows of zeros before it on axis 1, so that it has the shape of `like`: rows of a cache
/// that left the window have no gradient.
Tensor padded(const Tensor& t, const Tensor& like) {
  if (!like.defined() || t.shape() == like.shape()) {
    return t;
  }
  Tensor out = Tensor::zeros(like.shape(), like.dtype(), like.device());
  out.slice(1, like.size(1) - t.size(1), like.size(1)).copy_(t);
  return out;
}

class Forward final : public RankScan {
 public:
  Forward(Part& part, Communicator& comm) : part_(part), first_(comm.rank() == 0) {
    initial_ = part.given();
    if (part.has_fresh()) {  // which rows have a past is what the first rank knows
      initial_ =
          broadcast_list(comm, first_ ? initial_ : Tensors(), 0, part.states(), part.device());
    }
  }
  std::size_t states() const override { return part_.states(); }
  Device& device() const override { return part_.device(); }
  Tensors initial() override {
    Tensors states = initial_;
    if (!all_defined(states)) {
      const Tensors none = part_.empty_states();
      for (std::size_t p = 0; p < states.size(); ++p) {
        states[p] = states[p].defined() ? states[p] : none[p];
      }
    }
    return states;
  }
  Tensors summary() override { return part_.summary(); }
  Tensors act(const Tensors& summary, const Tensors& states) override {
    return part_.scan().act(summary, states, part_.attrs());
  }
  Tensors run(const Tensors& states) override { return part_.run(first_ ? nullptr : &states); }

 private:
  Part& part_;
  bool first_;
  Tensors initial_;
};

/// States are gradients of states; a summary is that of the tokens, their incoming states where act
/// is not affine, and the gradient of those as far as the rank's own outputs make it.
class Backward final : public RankScan {
 public:
  Backward(Part& part, std::span<const Tensor> dout, Tensors last)
      : part_(part), dout_(dout), last_(std::move(last)) {}
  std::size_t states() const override { return part_.states(); }
  Device& device() const override { return part_.device(); }
  Tensors initial() override { return last_; }
  Tensors summary() override {
    Tensors list = part_.summary();
    if (!part_.scan().affine) {
      const Tensors incoming = part_.incoming();
      list.insert(list.end(), incoming.begin(), incoming.end());
    }
    for (Tensor& g : part_.of_outputs(dout_)) {
      list.push_back(std::move(g));
    }
    return list;
  }
  Tensors act(const Tensors& list, const Tensors& dstates) override {
    const auto own_from = list.end() - static_cast<std::ptrdiff_t>(states());
    Tensors own(own_from, list.end());
    if (all_undefined(dstates)) {
      return own;
    }
    const auto states_from =
        part_.scan().affine ? own_from : own_from - static_cast<std::ptrdiff_t>(states());
    Tensors d = part_.scan().act_adjoint({list.begin(), states_from}, {states_from, own_from},
                                         dstates, part_.attrs());
    for (std::size_t p = 0; p < d.size(); ++p) {
      d[p] = padded(d[p], own[p]).clone();
      if (own[p].defined()) {
        d[p].add_(own[p]);
      }
    }
    return d;
  }
  Tensors run(const Tensors& dstates) override { return part_.derive(dout_, dstates); }

 private:
  Part& part_;
  std::span<const Tensor> dout_;
  Tensors last_;
};

class SplitNode final : public ag::NodeFn {
 public:
  SplitNode(std::shared_ptr<Part> part, const Strategy& strategy, Communicator& comm,
            Tensors outgoing)
      : part_(std::move(part)), strategy_(strategy), comm_(comm), outgoing_(std::move(outgoing)) {}
  std::string name() const override { return part_->scan().op->name + " over ranks"; }
  bool must_run() const override { return true; }
  void backward(std::span<const Tensor> dout, const std::vector<bool>&,
                std::span<Tensor> din) override {
    Tensors last(part_->states());
    for (std::size_t p = 0; p < last.size() && part_->call().keep; ++p) {
      const Tensor& own = dout[part_->port_out(p)];
      last[p] = own.defined() ? own.clone()
                              : Tensor::zeros(outgoing_[p].shape(), outgoing_[p].dtype(),
                                              outgoing_[p].device());
    }
    if (part_->call().keep) {
      begin_all_reduce(comm_, last).wait();
    }
    Backward scan(*part_, dout, std::move(last));
    const std::unique_ptr<Communicator> from_the_last = comm_.reversed();
    strategy_.run(scan, *from_the_last);
    part_->take_gradients(din);
  }

 private:
  std::shared_ptr<Part> part_;
  const Strategy& strategy_;
  Communicator& comm_;
  Tensors outgoing_;
};

}  // namespace

SplitRunner::SplitRunner(Communicator& comm, layers::SeqRunner& local, const std::string& strategy)
    : comm_(comm), local_(local), strategy_(strategy) {
  if (strategy != "auto") {
    strategy_registry().at(strategy);
  }
}

const Strategy& SplitRunner::choose(const ScanInfo& scan, const Vars& inputs, const void* attrs,
                                    const layers::Stretch& stretch, Index updates) {
  Tensors in;
  for (const Var& v : inputs) {
    in.push_back(value_of(v));
  }
  const Index reach = scan.reach ? scan.reach(in, attrs) : 0;
  RankExtents extents;
  if (reach > 0) {
    extents.fewest = comm_.reduce_value(stretch.tokens() * updates, ReduceOp::kMin);
  }
  for (const char* const name : {"halo", "gather", "relay"}) {
    const Strategy& s = *strategy_registry().at(strategy_ == "auto" ? name : strategy_);
    if (s.serves(scan, reach, extents)) {
      return s;
    }
  }
  LS_FAIL(
      kUnsupported,
      "strategy '{}' does not serve op {} over {} ranks (family {}, {}; fewest tokens of a rank "
      "{}, reach {}); use auto or relay",
      strategy_, scan.op->name, comm_.size(), scan.family, enum_name(scan.kind), extents.fewest,
      reach);
}

Vars SplitRunner::run(const ScanInfo& scan, Vars inputs, std::shared_ptr<const void> attrs,
                      const layers::Stretch& stretch, const layers::ScanCall& call) {
  const Strategy& strategy = choose(scan, inputs, attrs.get(), stretch, call.updates);
  Vars all = inputs;
  all.insert(all.end(), call.fresh.begin(), call.fresh.end());
  const bool recorded = ag::Tape::records(all);
  const auto part =
      std::make_shared<Part>(scan, inputs, std::move(attrs), stretch, call, local_, recorded);
  Forward forward(*part, comm_);
  Tensors after = strategy.run(forward, comm_);
  const int last = comm_.size() - 1;
  after = call.keep ? broadcast_list(comm_, comm_.rank() == last ? after : Tensors(), last,
                                     part->states(), part->device())
                    : Tensors(part->states());
  Tensors out;
  for (const Var& v : part->out()) {
    out.push_back(value_of(v));
  }
  for (std::size_t p = 0; p < after.size(); ++p) {
    out[part->port_out(p)] = after[p];
  }
  if (!recorded) {
    return Vars(out.begin(), out.end());
  }
  return ag::Tape::current()->record(
      std::make_unique<SplitNode>(part, strategy, comm_, std::move(after)), all, out);
}

std::vector<Index> SplitRunner::seen_after(const layers::Stretch& stretch) {
  std::vector<Index> seen = stretch.seen_after();
  comm_.broadcast(seen.data(), std::ssize(seen), DType::kI64, comm_.size() - 1);
  return seen;
}

}  // namespace ls::parallel
