// States handed on from rank to rank, in both directions: what every strategy that does so shares.
#include <algorithm>
#include <optional>

#include "autograd/functional.h"
#include "autograd/tape.h"
#include "core/comm/lists.h"
#include "parallel/sequence/heads.h"
#include "parallel/sequence/part.h"
#include "parallel/sequence/pieces.h"
#include "parallel/sequence/strategy.h"

namespace ls::parallel {
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

/// Made when first asked for.
class Pieces {
 public:
  const StatePieces& of(const Part& part) {
    if (!cut_) {
      cut_.emplace(part.scan(), part.like_summary());
    }
    return *cut_;
  }

 private:
  std::optional<StatePieces> cut_;
};

class Forward final : public RankScan {
 public:
  Forward(Part& part, Communicator& comm)
      : part_(part), first_(comm.rank() == 0), told_(part.has_fresh()) {
    initial_ = part.given();
    if (told_) {  // which rows have a past is what the first rank knows
      given_ =
          begin_broadcast(comm, first_ ? initial_ : Tensors(), 0, part.states(), part.device());
    }
  }
  std::size_t states() const override { return part_.states(); }
  Device& device() const override { return part_.device(); }
  Tensors initial() override {
    if (std::exchange(told_, false)) {
      initial_ = given_.wait_one();
    }
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
  std::size_t summary_size() const override { return part_.scan().summary.size(); }
  void begin_tokens() override {
    if (!first_ && part_.runs_locally()) {
      part_.summary();
    }
  }
  Tensors act(const Tensors& summary, const Tensors& states) override {
    return part_.scan().act(summary, states, part_.attrs());
  }
  Tensors compose(const Tensors& earlier, const Tensors& later) override {
    return part_.scan().compose(earlier, later, part_.attrs());
  }
  int pieces() override { return pieces_.of(part_).count(); }
  Tensors piece(const Tensors& list, int which) override {
    return pieces_.of(part_).piece(list, which);
  }
  Tensors joined(const std::vector<Tensors>& all) override { return pieces_.of(part_).joined(all); }
  Tensors run(const Tensors& states) override { return part_.run(first_ ? nullptr : &states); }

 private:
  Part& part_;
  Pieces pieces_;
  bool first_, told_;
  Tensors initial_;
  PendingLists given_;
};

/// States are gradients of states; a summary is that of the tokens, their incoming states where act
/// is not affine, and the gradient of those as far as the rank's own outputs make it.
class Backward final : public RankScan {
 public:
  /// `last`, once `summed` is done: gradients of what goes out of the last rank.
  Backward(Part& part, Tensors dout, Tensors last, Pending& summed)
      : part_(part), dout_(std::move(dout)), last_(std::move(last)), summed_(summed) {}
  std::size_t states() const override { return part_.states(); }
  Device& device() const override { return part_.device(); }
  Tensors initial() override {
    summed_.wait();
    return last_;
  }
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
  std::size_t summary_size() const override {
    const ScanInfo& scan = part_.scan();
    return scan.summary.size() + (scan.affine ? 1 : 2) * states();
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
  /// Gradients pass the later rank first: what it makes of the outputs' goes through the earlier.
  Tensors compose(const Tensors& earlier, const Tensors& later) override {
    const std::size_t summary = part_.scan().summary.size();
    const auto first = [&](const Tensors& list) {
      return Tensors(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(summary));
    };
    Tensors both = part_.scan().compose(first(later), first(earlier), part_.attrs());
    const auto own_from = earlier.end() - static_cast<std::ptrdiff_t>(states());
    const Tensors own = act(later, Tensors(own_from, earlier.end()));
    both.insert(both.end(), later.begin() + static_cast<std::ptrdiff_t>(summary),
                later.end() - static_cast<std::ptrdiff_t>(states()));
    both.insert(both.end(), own.begin(), own.end());
    return both;
  }
  int pieces() override { return pieces_.of(part_).count(); }
  Tensors piece(const Tensors& list, int which) override {
    return pieces_.of(part_).piece(list, which);
  }
  Tensors joined(const std::vector<Tensors>& all) override { return pieces_.of(part_).joined(all); }
  Tensors run(const Tensors& dstates) override { return part_.derive(dout_, dstates); }

 private:
  Part& part_;
  Pieces pieces_;
  Tensors dout_, last_;
  Pending& summed_;
};

/// Begins the exchanges of all parts before it finishes the first; what each left.
std::vector<Tensors> run_parts(const HandingStrategy& strategy, Communicator& comm,
                               std::span<const std::unique_ptr<RankScan>> parts) {
  std::vector<std::unique_ptr<Exchange>> exchanges;
  for (const std::unique_ptr<RankScan>& part : parts) {
    exchanges.push_back(strategy.begin(*part, comm));
  }
  std::vector<Tensors> after;
  for (const std::unique_ptr<Exchange>& exchange : exchanges) {
    after.push_back(exchange->finish());
  }
  for (const std::unique_ptr<Exchange>& exchange : exchanges) {
    exchange->settle();
  }
  return after;
}

class HandedNode final : public ag::NodeFn {
 public:
  using Parts = std::vector<std::unique_ptr<Part>>;
  HandedNode(HeadParts heads, Parts parts, const HandingStrategy& strategy,
             std::shared_ptr<Communicator> comm, Tensors outgoing, std::vector<ShapeOf> inputs)
      : heads_(std::move(heads)),
        parts_(std::move(parts)),
        strategy_(strategy),
        comm_(std::move(comm)),
        outgoing_(std::move(outgoing)),
        inputs_(std::move(inputs)) {}
  std::string name() const override { return first().scan().op->name + " over ranks"; }
  bool must_run() const override { return true; }
  void backward(std::span<const Tensor> dout, const std::vector<bool>& wanted,
                std::span<Tensor> din) override {
    const Tensors last = of_last(dout);
    Pending summed;
    if (first().call().keep) {
      summed = begin_all_reduce(*comm_, last);
    }
    place_gradients(wanted, din);
    std::vector<std::unique_ptr<RankScan>> scans;
    for (int g = 0; g < heads_.count(); ++g) {
      Tensors some, ends;
      for (std::size_t i = 0; i < dout.size(); ++i) {
        some.push_back(heads_.of_output(dout[i], i, g));
      }
      for (std::size_t p = 0; p < last.size(); ++p) {
        ends.push_back(heads_.of_output(last[p], first().port_out(p), g));
      }
      scans.push_back(std::make_unique<Backward>(*parts_[static_cast<std::size_t>(g)],
                                                 std::move(some), std::move(ends), summed));
    }
    const std::unique_ptr<Communicator> from_the_last = comm_->reversed();
    run_parts(strategy_, *from_the_last, scans);
    for (int g = 0; g < heads_.count(); ++g) {
      collect(parts_[static_cast<std::size_t>(g)]->take_gradients(), g, din);
    }
  }

 private:
  const Part& first() const { return *parts_.front(); }
  /// This rank's gradients of outgoing states, to be summed over ranks.
  Tensors of_last(std::span<const Tensor> dout) const {
    Tensors last(first().states());
    for (std::size_t p = 0; p < last.size() && first().call().keep; ++p) {
      const Tensor& own = dout[first().port_out(p)];
      last[p] = own.defined() ? own.clone()
                              : Tensor::zeros(outgoing_[p].shape(), outgoing_[p].dtype(),
                                              outgoing_[p].device());
    }
    return last;
  }
  /// One tensor for the gradient of an input, of which parts write slices.
  void place_gradients(const std::vector<bool>& wanted, std::span<Tensor> din) {
    for (std::size_t i = 0; i < din.size(); ++i) {
      din[i] = wanted[i] && heads_.cuts_input(i)
                   ? Tensor::empty(inputs_[i].shape(), inputs_[i].dtype(), first().device())
                   : Tensor();
    }
    for (int g = 0; g < heads_.count() && heads_.count() > 1; ++g) {
      Tensors places;
      for (std::size_t i = 0; i < din.size(); ++i) {
        places.push_back(heads_.of_input(din[i], i, g));
      }
      parts_[static_cast<std::size_t>(g)]->place_gradients(std::move(places));
    }
  }
  /// Slices that lie elsewhere go to their places; shared inputs are summed.
  void collect(const Tensors& some, int part, std::span<Tensor> din) const {
    for (std::size_t i = 0; i < din.size(); ++i) {
      if (heads_.cuts_input(i) && din[i].defined()) {
        Tensor place = heads_.of_input(din[i], i, part);
        if (!some[i].defined()) {
          place.zero_();
        } else if (!ag::same_elements(some[i], place)) {
          place.copy_(some[i]);
        }
      } else if (some[i].defined()) {
        din[i] = din[i].defined() ? din[i].add_(some[i]) : some[i];
      }
    }
  }

  HeadParts heads_;
  Parts parts_;
  const HandingStrategy& strategy_;
  std::shared_ptr<Communicator> comm_;
  Tensors outgoing_;
  std::vector<ShapeOf> inputs_;
};

/// Tensors for outputs that kernels may write in slices; none of others.
Tensors places_of(const ScanInfo& scan, const Vars& inputs,
                  const std::shared_ptr<const void>& attrs) {
  const OpInfo& op = *scan.op;
  Tensors in;
  for (const Var& v : inputs) {
    in.push_back(value_of(v));
  }
  const auto strided = [&](std::size_t i) {
    return std::any_of(op.kernels.begin(), op.kernels.end(),
                       [i](const Kernel& k) { return k.out[i].strided_grad; });
  };
  Tensors places(op.out.size());
  bool some = false;
  for (std::size_t i = 0; i < places.size(); ++i) {
    some = some || strided(i);
  }
  if (!some) {
    return {};
  }
  const Launch whole = prepare_forward(op, in, attrs);
  for (std::size_t i = 0; i < places.size(); ++i) {
    places[i] = strided(i) ? whole.out[i] : Tensor();
  }
  return places;
}

/// Outputs of the parts as those of one scan.
Tensors joined(const HeadParts& heads, const HandedNode::Parts& parts, const Tensors& places) {
  Tensors out;
  for (std::size_t i = 0; i < parts.front()->out().size(); ++i) {
    Tensors some;
    for (const std::unique_ptr<Part>& part : parts) {
      some.push_back(value_of(part->out()[i]));
    }
    out.push_back(heads.joined(some, i, places.empty() ? Tensor() : places[i]));
  }
  return out;
}

/// What the last rank has of `after`, by part, on all: of one scan.
Tensors of_last(Communicator& comm, const HeadParts& heads, const HandedNode::Parts& parts,
                const std::vector<Tensors>& after) {
  const Part& first = *parts.front();
  const int last = comm.size() - 1;
  std::vector<PendingLists> told;
  for (const Tensors& states : after) {
    told.push_back(begin_broadcast(comm, comm.rank() == last ? states : Tensors(), last,
                                   first.states(), first.device()));
  }
  std::vector<Tensors> by_part;
  for (PendingLists& list : told) {
    by_part.push_back(list.wait_one());
  }
  Tensors all;
  for (std::size_t p = 0; p < first.states(); ++p) {
    Tensors some;
    for (const Tensors& states : by_part) {
      some.push_back(states[p]);
    }
    all.push_back(heads.joined(some, first.port_out(p)));
  }
  return all;
}

}  // namespace

Vars HandingStrategy::run(SplitCall c) const {
  const ScanInfo& scan = c.scan;
  Communicator& comm = *c.comm;
  Vars all = c.inputs;
  all.insert(all.end(), c.call.fresh.begin(), c.call.fresh.end());
  const bool recorded = ag::Tape::records(all);
  HeadParts heads(scan, c.inputs, comm.size() > 1 ? kHeadParts : 1);
  const Tensors places = heads.count() > 1 ? places_of(scan, c.inputs, c.attrs) : Tensors();
  HandedNode::Parts parts;
  std::vector<std::unique_ptr<RankScan>> scans;
  for (int g = 0; g < heads.count(); ++g) {
    parts.push_back(std::make_unique<Part>(scan, heads.inputs(c.inputs, g), c.attrs,
                                           heads.stretch(c.stretch, g),
                                           heads.call(c.call, places, g), c.local, recorded));
    scans.push_back(std::make_unique<Forward>(*parts.back(), comm));
  }
  const std::vector<Tensors> after = run_parts(*this, comm, scans);
  Tensors out = joined(heads, parts, places), last(scan.states.size());
  if (c.call.keep) {
    last = of_last(comm, heads, parts, after);
  }
  for (std::size_t p = 0; p < last.size(); ++p) {
    out[parts.front()->port_out(p)] = last[p];
  }
  if (!recorded) {
    return Vars(out.begin(), out.end());
  }
  Tensors values;
  for (const Var& v : all) {
    values.push_back(value_of(v));
  }
  return ag::Tape::current()->record(
      std::make_unique<HandedNode>(std::move(heads), std::move(parts), *this, std::move(c.comm),
                                   std::move(last), shapes_of(values)),
      all, out);
}

}  // namespace ls::parallel
