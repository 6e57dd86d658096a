// Ring attention (2310.01889) for keys and values: they go from each rank to the next, and what a
// rank's queries make of each part is merged by log-sums. No rank holds more than two others' rows.
//
//   P_r  tokens before rank r      T_r  its tokens     n_s  rows of part s that others may see
//   part s  the last n_s of the keys that came in (of rank 0) and its own
//   At step k rank r works on part r - k, while part r - k - 1 comes from rank r - 1. A part goes
// as
//   far as a query sees it. Backward, gradients of a part go along with it, and home from there.
#include <algorithm>
#include <numeric>

#include "autograd/functional.h"
#include "autograd/tape.h"
#include "core/comm/lists.h"
#include "core/ops/scale_add/scale_add.h"
#include "core/ops/softmax/softmax.h"
#include "parallel/sequence/part.h"
#include "parallel/sequence/strategy.h"

namespace ls::parallel {
namespace {

using ag::Var;
using layers::input_of;
using layers::output_of;
using layers::ScanInfo;
using Vars = std::vector<Var>;

Tensor behind(const Tensor& a, const Tensor& b) {
  if (!a.defined() || a.size(1) == 0) {
    return b;
  }
  const ag::NoGrad no_grad;
  return ag::concat({Var(a), Var(b)}, 1).value();
}

/// Outputs over parts of the keys, merged so far; o in the acc type.
struct Merged {
  Tensor o, lse;
  void add(const Tensor& o2, const Tensor& lse2) {
    const Tensor wide = o2.to(lse2.dtype());
    if (!o.defined()) {
      o = wide;
      lse = lse2;
      return;
    }
    Shape both = lse.shape();
    both.push_back(2);
    Tensor logs = Tensor::empty(both, lse.dtype(), lse.device());
    logs.select(-1, 0).copy_(lse);
    logs.select(-1, 1).copy_(lse2);
    const auto w = call_op<ops::Softmax>({.x = logs});
    const Shape shape = o.shape(), flat{shape[0], shape[1], shape[2] * shape[3]};
    const auto weighted = [&](const Tensor& x, int part, const Tensor& base) {
      return call_op<ops::ScaleAdd>(
                 {.x = x.reshape(flat), .factor = w.y.select(-1, part).contiguous(), .base = base})
          .y;
    };
    o = weighted(wide, 1, weighted(o, 0, {})).view(shape);
    lse = w.lse;
  }
};

class Ring {
 public:
  explicit Ring(SplitCall call)
      : scan_(call.scan),
        op_(*scan_.op),
        attrs_(std::move(call.attrs)),
        stretch_(call.stretch),
        comm_(std::move(call.comm)),
        keep_(call.call.keep),
        rank_(comm_->rank()),
        tokens_(static_cast<std::size_t>(comm_->size())) {
    for (const Var& v : call.inputs) {
      in_.push_back(value_of(v));
      wanted_.push_back(v.requires_grad());
    }
    for (const Var& fresh : call.call.fresh) {
      LS_CHECK(!fresh.defined(), kUnsupported,
               "ring_attention: documents of op {} start from a state of their own; use gather",
               op_.name);
    }
    const Index own = stretch_.tokens();
    comm_->all_gather(&own, tokens_.data(), 1, DType::kI64);
    for (const layers::StatePort& port : scan_.states) {
      Tensor& given = input_of(op_, in_, port.input);
      initial_.push_back(std::exchange(given, Tensor()));
    }
    cached_ = initial_[0].defined() ? initial_[0].size(1) : 0;
    reach_ = scan_.reach ? scan_.reach(in_, attrs_.get()) : -1;
    part_ = scan_.summarize(in_, attrs_.get());
    if (rank_ == 0 && cached_ > 0) {
      part_ = scan_.act(part_, initial_, attrs_.get());
    }
  }
  std::string name() const { return op_.name + " in a ring"; }

  Tensors run() {
    Merged merged;
    Tensors held = part_;
    for (int step = 0; step <= rank_; ++step) {
      PendingLists next = begin_step(step, held);
      if (looks(step)) {
        const Tensors out = look(step, held);
        merged.add(output_of(op_, out, values_name()), output_of(op_, out, scan_.merged_by));
      }
      held = gets(step) ? next.wait_one() : wait(next, sends(step));
    }
    Tensors out(op_.out.size());
    output_of(op_, out, values_name()) = o_ = merged.o.to(op_dtype(op_, in_));
    output_of(op_, out, scan_.merged_by) = lse_ = merged.lse;
    if (keep_) {
      keep_states(out);
    }
    return out;
  }

  /// Gradients of the inputs for those of the outputs.
  Tensors derive(std::span<const Tensor> dout) {
    Tensors din(in_.size()), held = part_, carried, home;
    for (int step = 0; step < comm_->size(); ++step) {
      const bool travels = goes_on(rank_ - step);
      PendingLists next = begin_step(step, held);
      Tensors d = looks(step) ? derive_part(step, held, dout, din) : Tensors();
      for (std::size_t p = 0; step > 0 && p < carried.size(); ++p) {
        carried[p] = d.empty() ? carried[p] : carried[p].add_(d[p].to(carried[p].dtype()));
      }
      if (step == 0 && travels) {
        for (const Tensor& t : part_) {
          carried.push_back(Tensor::zeros(t.shape(), acc_dtype(t.dtype()), t.device()));
        }
      }
      held = gets(step) ? next.wait_one() : wait(next, sends(step));
      carried = pass(step, carried, home);
    }
    add_home(home, din);
    add_outgoing(dout, din);
    din = split_states(std::move(din));
    for (std::size_t i = 0; i < din.size(); ++i) {  // where no gradient came
      if (wanted_[i] && !din[i].defined() && layers::is_sequence(op_.in[i])) {
        din[i] = Tensor::zeros(in_[i].shape(), in_[i].dtype(), device());
      }
    }
    return din;
  }

 private:
  const std::string& values_name() const { return op_.out.front().name; }
  Index before(int rank) const {
    return std::accumulate(tokens_.begin(), tokens_.begin() + rank, Index{0});
  }
  Index tokens(int rank) const { return tokens_[static_cast<std::size_t>(rank)]; }
  /// The last rank whose queries may see part s, s itself where no other does.
  int last(int s) const {
    int to = s;
    for (int r = s + 1; r < comm_->size(); ++r) {
      const bool near = reach_ < 0 || before(r) - before(s) - tokens(s) < reach_;
      to = tokens(r) > 0 && near ? r : to;
    }
    return tokens(s) + (s == 0 ? cached_ : 0) > 0 ? to : s;
  }
  // At a step, of part rank - step:
  bool has(int step) const { return rank_ >= step && last(rank_ - step) >= rank_; }
  bool goes_on(int s) const { return s >= 0 && s <= rank_ && last(s) > s; }
  bool sends(int step) const { return has(step) && last(rank_ - step) > rank_; }
  bool gets(int step) const { return has(step + 1); }
  bool looks(int step) const { return has(step) && (step == 0 || tokens(rank_) > 0); }

  PendingLists begin_step(int step, const Tensors& held) {
    if (!sends(step) && !gets(step)) {
      return {};
    }
    return begin_exchange(*comm_, sends(step) ? held : Tensors(), sends(step) ? rank_ + 1 : kNoRank,
                          gets(step) ? rank_ - 1 : kNoRank, part_.size(), device());
  }
  static Tensors wait(PendingLists& sent, bool any) {
    if (any) {
      sent.wait();
    }
    return {};
  }
  Device& device() const { return in_.front().device(); }

  /// Inputs and attributes of the op that sees these rows alone.
  std::shared_ptr<const void> look_at(int step, const Tensors& held, Tensors& in) const {
    Tensors keys = held;
    Index ahead = cached_;
    if (step == 0) {  // all of its own, and what came in
      for (std::size_t p = 0; p < keys.size(); ++p) {
        keys[p] = own_rows(p);
      }
      ahead = rank_ == 0 ? cached_ : 0;
    } else {
      const int s = rank_ - step;
      ahead = before(rank_) - before(s) - tokens(s) + keys[0].size(1);
    }
    in = in_;
    auto attrs = scan_.look_at(in, keys, ahead, step == 0, attrs_.get());
    if (stretch_.has_documents() || !stretch_.all_have_seen(before(rank_) + cached_)) {
      Tensor start = stretch_.tensors().start.to(cpu()).clone();
      for (Index i = 0; i < start.numel(); ++i) {
        auto& at = start.data<std::int64_t>()[i];
        at = std::min<Index>(at + ahead, keys[0].size(1));
      }
      input_of(op_, in, "start") = start.to(device());
    }
    return attrs;
  }
  /// Of state p, the rows that the stretch itself has: the input of its name.
  std::size_t key(std::size_t p) const {
    return static_cast<std::size_t>(op_.input_index(scan_.states[p].name));
  }
  Tensor own_rows(std::size_t p) const {
    return behind(rank_ == 0 ? initial_[p] : Tensor(), in_[key(p)]);
  }
  Tensors look(int step, const Tensors& held) const {
    Tensors in;
    const auto attrs = look_at(step, held, in);
    return run_forward(op_, in, attrs);
  }

  /// Adds this rank's own gradients for what it made of a part to `din`; those of the part.
  Tensors derive_part(int step, const Tensors& held, std::span<const Tensor> dout, Tensors& din) {
    Tensors in;
    const auto attrs = look_at(step, held, in);
    const std::vector<ShapeOf> shapes = shapes_of(in);
    Tensors saved(op_.out.size()), seeds(op_.out.size());
    output_of(op_, saved, values_name()) = o_;
    output_of(op_, saved, scan_.merged_by) = lse_;
    for (const std::string* const name : {&values_name(), &scan_.merged_by}) {
      const auto i = static_cast<std::size_t>(op_.output_index(*name));
      seeds[i] = dout[i];
    }
    const bool some = std::ranges::any_of(seeds, [](const Tensor& t) { return t.defined(); });
    std::vector<bool> wanted = wanted_;
    for (std::size_t p = 0; p < part_.size(); ++p) {
      wanted[key(p)] = true;
    }
    for (std::size_t i = 0; i < in.size(); ++i) {
      wanted[i] = wanted[i] && in[i].defined();
      in[i] = op_.in[i].saved ? in[i] : Tensor();
    }
    Tensors d =
        some ? run_backward(op_, in, saved, seeds, wanted, shapes, op_dtype(op_, shapes), attrs)
             : Tensors(in_.size());
    Tensors of_part;
    for (std::size_t p = 0; p < part_.size(); ++p) {
      of_part.push_back(std::exchange(d[key(p)], Tensor()));
    }
    for (std::size_t i = 0; i < d.size(); ++i) {
      if (d[i].defined()) {
        din[i] = din[i].defined() ? din[i].add_(d[i]) : d[i];
      }
    }
    if (step == 0) {
      for (std::size_t p = 0; p < part_.size(); ++p) {
        const Tensor rows = own_rows(p);
        din[key(p)] = of_part[p].defined()
                          ? of_part[p].clone()
                          : Tensor::zeros(rows.shape(), rows.dtype(), rows.device());
      }
    }
    return some ? of_part : Tensors();
  }

  /// Hands gradients of the part of this step on, or home from the last rank that sees it.
  Tensors pass(int step, const Tensors& carried, Tensors& home) {
    Tensors next;
    if (sends(step) || gets(step)) {
      PendingLists message = begin_exchange(
          *comm_, sends(step) ? carried : Tensors(), sends(step) ? rank_ + 1 : kNoRank,
          gets(step) ? rank_ - 1 : kNoRank, part_.size(), device());
      next = gets(step) ? message.wait_one() : wait(message, true);
    }
    const int s = rank_ - step;
    const bool ends = step > 0 && goes_on(s) && last(s) == rank_;
    const bool comes = step > 0 && goes_on(rank_) && last(rank_) - rank_ == step;
    if (ends || comes) {
      PendingLists message = begin_exchange(*comm_, ends ? carried : Tensors(), ends ? s : kNoRank,
                                            comes ? last(rank_) : kNoRank, part_.size(), device());
      home = comes ? message.wait_one() : (message.wait(), std::move(home));
    }
    return next;
  }
  /// What later ranks made of this rank's part: its last rows.
  void add_home(const Tensors& home, Tensors& din) const {
    for (std::size_t p = 0; p < home.size(); ++p) {
      Tensor& all = din[key(p)];
      all.slice(1, all.size(1) - home[p].size(1), all.size(1)).add_(home[p].to(all.dtype()));
    }
  }

  void keep_states(Tensors& out) {
    const std::vector<Tensors> parts = begin_gather(*comm_, part_, device()).wait();
    Tensors states = parts[0];
    for (std::size_t s = 1; s < parts.size(); ++s) {
      states = scan_.act(parts[s], states, attrs_.get());
    }
    for (std::size_t p = 0; p < states.size(); ++p) {
      output_of(op_, out, scan_.states[p].output) = states[p];
    }
    kept_ = shapes_of(states);
  }
  /// Gradients of states out, summed over ranks, belong to the rows that they were.
  void add_outgoing(std::span<const Tensor> dout, Tensors& din) {
    if (!keep_) {
      return;
    }
    Tensors all;
    for (std::size_t p = 0; p < kept_.size(); ++p) {
      const Tensor& own = dout[static_cast<std::size_t>(op_.output_index(scan_.states[p].output))];
      all.push_back(own.defined() ? own.clone()
                                  : Tensor::zeros(kept_[p].shape(), kept_[p].dtype(), device()));
    }
    Pending summed = begin_all_reduce(*comm_, all);
    summed.wait();
    const Index total = cached_ + before(comm_->size()),
                from = rank_ == 0 ? 0 : cached_ + before(rank_), to = cached_ + before(rank_ + 1);
    for (std::size_t p = 0; p < all.size(); ++p) {
      const Index first = total - all[p].size(1), a = std::max(from, first);
      if (a < to) {
        din[key(p)].slice(1, a - from, to - from).add_(all[p].slice(1, a - first, to - first));
      }
    }
  }
  /// Of rank 0 the first rows are those of what came in.
  Tensors split_states(Tensors din) const {
    for (std::size_t p = 0; p < part_.size(); ++p) {
      Tensor& all = din[key(p)];
      const Index rows = all.size(1), came = rank_ == 0 ? cached_ : 0;
      const auto port = static_cast<std::size_t>(op_.input_index(scan_.states[p].input));
      din[port] = came > 0 ? all.slice(1, 0, came) : Tensor();
      all = all.slice(1, came, rows);
    }
    return din;
  }

  const ScanInfo& scan_;
  const OpInfo& op_;
  std::shared_ptr<const void> attrs_;
  layers::Stretch stretch_;
  std::shared_ptr<Communicator> comm_;
  bool keep_;
  int rank_;
  std::vector<Index> tokens_;  ///< of each rank
  Tensors in_, initial_, part_;
  std::vector<bool> wanted_;
  Index cached_ = 0, reach_ = -1;  ///< rows that came in; tokens that a query sees back, -1: all
  Tensor o_, lse_;
  std::vector<ShapeOf> kept_;
};

class RingNode final : public ag::NodeFn {
 public:
  explicit RingNode(std::unique_ptr<Ring> ring) : ring_(std::move(ring)) {}
  std::string name() const override { return ring_->name(); }
  bool must_run() const override { return true; }
  void backward(std::span<const Tensor> dout, const std::vector<bool>&,
                std::span<Tensor> din) override {
    std::ranges::copy(ring_->derive(dout), din.begin());
  }

 private:
  std::unique_ptr<Ring> ring_;
};

class RingAttention final : public Strategy {
 public:
  bool serves(const ScanInfo& scan, Index, const RankExtents&) const override {
    return !scan.merged_by.empty();
  }
  /// All but the first part come while another is worked on.
  Payload payload(const SplitSizes& s) const override {
    const auto steps = static_cast<double>(s.ranks - 1), part = static_cast<double>(s.state);
    return {.sent = steps * part, .path = steps * part, .steps = steps};
  }
  Vars run(SplitCall call) const override {
    const Vars inputs = call.inputs;
    auto ring = std::make_unique<Ring>(std::move(call));
    const Tensors out = ring->run();
    if (!ag::Tape::records(inputs)) {
      return Vars(out.begin(), out.end());
    }
    return ag::Tape::current()->record(std::make_unique<RingNode>(std::move(ring)), inputs, out);
  }
};
LS_STRATEGY(RingAttention, "ring_attention",
            "keys and values go round; partial attention is merged by log-sums");

}  // namespace
}  // namespace ls::parallel
