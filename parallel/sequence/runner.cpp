#include "parallel/sequence/runner.h"

#include "autograd/tape.h"

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

Tensor value_of(const Var& v) {
  return v.defined() ? v.value() : Tensor();
}

/// `t` with rows of zeros before it on axis 1, so that it has the shape of `like`: rows of a cache
/// that left the window have no gradient.
Tensor padded(const Tensor& t, const Tensor& like) {
  if (!like.defined() || t.shape() == like.shape()) {
    return t;
  }
  Tensor out = Tensor::zeros(like.shape(), like.dtype());
  out.slice(1, like.size(1) - t.size(1), like.size(1)).copy_(t);
  return out;
}

/// One rank's tokens of one scan: its inputs as leaves of a tape of its own, which is walked when
/// gradients arrive.
class Part {
 public:
  Part(const ScanInfo& scan, const Vars& inputs, std::shared_ptr<const void> attrs,
       const layers::Stretch& stretch, const layers::ScanCall& call, layers::SeqRunner& local,
       bool recorded)
      : scan_(scan),
        attrs_(std::move(attrs)),
        stretch_(stretch),
        call_(call),
        local_(local),
        recorded_(recorded) {
    for (const Var& v : inputs) {
      in_.push_back(own(v));
    }
    for (Var& v : call_.fresh) {
      v = own(v);
    }
    for (const layers::StatePort& port : scan.states) {
      port_in_.push_back(static_cast<std::size_t>(scan.op->input_index(port.input)));
      port_out_.push_back(static_cast<std::size_t>(scan.op->output_index(port.output)));
    }
  }

  const ScanInfo& scan() const { return scan_; }
  const void* attrs() const { return attrs_.get(); }
  const layers::ScanCall& call() const { return call_; }
  std::size_t states() const { return port_in_.size(); }
  std::size_t port_out(std::size_t p) const { return port_out_[p]; }
  const Vars& out() const { return out_; }

  /// The incoming states of the whole sequence, as this rank was given them.
  Tensors given() const {
    Tensors s;
    for (std::size_t p = 0; p < states(); ++p) {
      const ag::NoGrad no_grad;
      s.push_back(value_of(layers::first_states(in_[port_in_[p]], p, stretch_, call_)));
    }
    return s;
  }
  bool has_fresh() const {
    return std::any_of(call_.fresh.begin(), call_.fresh.end(),
                       [](const Var& v) { return v.defined(); });
  }
  /// States before any token: zeros, or caches without rows.
  Tensors empty_states() const {
    Vars in = in_;
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (in[i].defined() && layers::is_sequence(scan_.op->in[i])) {
        in[i] = Var(in[i].value().slice(1, 0, 0));
      }
    }
    for (const std::size_t p : port_in_) {
      in[p] = Var();
    }
    const ag::NoGrad no_grad;
    return states_of(local_.run(scan_, in, attrs_, layers::Stretch(stretch_.rows(), 0),
                                {.slot = call_.slot, .fresh = {}}));
  }
  /// Those that the last run began with.
  Tensors incoming() const {
    Tensors s;
    for (const Var& v : states_) {
      s.push_back(value_of(v));
    }
    if (std::any_of(s.begin(), s.end(), [](const Tensor& t) { return !t.defined(); })) {
      const Tensors zeros = empty_states();
      for (std::size_t p = 0; p < s.size(); ++p) {
        s[p] = s[p].defined() ? s[p] : zeros[p];
      }
    }
    return s;
  }
  const Tensors& summary() {
    if (summary_.empty()) {
      Tensors in, fresh;
      for (const Var& v : in_) {
        in.push_back(value_of(v));
      }
      for (const std::size_t p : port_in_) {
        in[p] = Tensor();
      }
      for (const Var& v : call_.fresh) {
        fresh.push_back(value_of(v));
      }
      std::vector<std::vector<Index>> starts;
      for (Index r = 0; r < stretch_.rows() && stretch_.has_documents(); ++r) {
        starts.emplace_back();
        for (const Index s : stretch_.starts(r)) {
          starts.back().push_back(s * call_.updates);
        }
      }
      const ag::NoGrad no_grad;
      summary_ = layers::summarize(scan_, in, attrs(), starts, fresh);
    }
    return summary_;
  }
  /// Runs the tokens; `states` null: from those that this rank was given.
  Tensors run(const Tensors* states) {
    Vars in = in_;
    call_.begun = states != nullptr;
    for (std::size_t p = 0; states && p < port_in_.size(); ++p) {
      in[port_in_[p]] = recorded_ ? Var::leaf((*states)[p]) : Var((*states)[p]);
    }
    for (const std::size_t p : port_in_) {
      states_.push_back(in[p]);
    }
    if (recorded_) {
      const ag::EnableGrad enable;
      tape_ = std::make_unique<ag::Tape>();
      out_ = local_.run(scan_, in, attrs_, stretch_, call_);
      tape_->close();
    } else {
      out_ = local_.run(scan_, in, attrs_, stretch_, call_);
    }
    return states_of(out_);
  }
  /// Gradients of the incoming states, for those of the outputs and of the outgoing states.
  Tensors derive(std::span<const Tensor> dout, const Tensors& dstates, bool again) {
    Tensors seeds(dout.begin(), dout.end());
    for (std::size_t p = 0; p < states(); ++p) {
      seeds[port_out_[p]] = dstates[p];
    }
    tape_->open();
    tape_->backward(out_, seeds, again);
    tape_->close();
    Tensors d;
    for (Var& s : states_) {
      d.push_back(!s.defined()         ? Tensor()
                  : s.grad().defined() ? s.grad()
                                       : Tensor::zeros(s.shape(), s.dtype()));
    }
    if (again) {
      for (Vars* const list : {&in_, &call_.fresh, &states_}) {
        for (Var& v : *list) {
          if (v.defined()) {
            v.clear_grad();
          }
        }
      }
    }
    return d;
  }
  /// What the last pass gave the inputs, then what documents start from.
  void take_gradients(std::span<Tensor> din) const {
    std::size_t i = 0;
    for (const Vars* const list : {&in_, &call_.fresh}) {
      for (const Var& v : *list) {
        din[i++] = v.defined() ? v.grad() : Tensor();
      }
    }
  }

 private:
  /// A leaf of this part's tape.
  Var own(const Var& v) const {
    return recorded_ && v.requires_grad() ? Var::leaf(v.value()) : v.detach();
  }
  Tensors states_of(const Vars& out) const {
    Tensors s;
    for (const std::size_t p : port_out_) {
      s.push_back(value_of(out[p]));
    }
    return s;
  }

  const ScanInfo& scan_;
  std::shared_ptr<const void> attrs_;
  layers::Stretch stretch_;
  layers::ScanCall call_;
  layers::SeqRunner& local_;
  bool recorded_;
  Vars in_, out_, states_;
  std::vector<std::size_t> port_in_, port_out_;
  Tensors summary_;
  std::unique_ptr<ag::Tape> tape_;
};

class Forward final : public RankScan {
 public:
  Forward(Part& part, Communicator& comm) : part_(part), first_(comm.rank() == 0) {
    initial_ = part.given();
    if (part.has_fresh()) {  // which rows have a past is what the first rank knows
      initial_ = broadcast_list(comm, first_ ? initial_ : Tensors(), 0, part.states());
    }
  }
  std::size_t states() const override { return part_.states(); }
  Tensors initial() override { return all_undefined(initial_) ? part_.empty_states() : initial_; }
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
  Tensors initial() override { return last_; }
  Tensors summary() override {
    Tensors list = part_.summary();
    if (!part_.scan().affine) {
      const Tensors incoming = part_.incoming();
      list.insert(list.end(), incoming.begin(), incoming.end());
    }
    for (Tensor& g : part_.derive(dout_, Tensors(states()), true)) {
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
  Tensors run(const Tensors& dstates) override { return part_.derive(dout_, dstates, false); }

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
      last[p] =
          own.defined() ? own.clone() : Tensor::zeros(outgoing_[p].shape(), outgoing_[p].dtype());
      comm_.all_reduce(last[p].raw(), last[p].numel(), last[p].dtype());
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
                                    const layers::Stretch& stretch) {
  Tensors in;
  for (const Var& v : inputs) {
    in.push_back(value_of(v));
  }
  const Index reach = scan.reach ? scan.reach(in, attrs) : 0;
  RankExtents extents;
  if (reach > 0) {
    extents.fewest = comm_.reduce_value(stretch.tokens(), ReduceOp::kMin);
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
  const Strategy& strategy = choose(scan, inputs, attrs.get(), stretch);
  Vars all = inputs;
  all.insert(all.end(), call.fresh.begin(), call.fresh.end());
  const bool recorded = ag::Tape::records(all);
  const auto part =
      std::make_shared<Part>(scan, inputs, std::move(attrs), stretch, call, local_, recorded);
  Forward forward(*part, comm_);
  Tensors after = strategy.run(forward, comm_);
  const int last = comm_.size() - 1;
  after = call.keep ? broadcast_list(comm_, comm_.rank() == last ? after : Tensors(), last,
                                     part->states())
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
