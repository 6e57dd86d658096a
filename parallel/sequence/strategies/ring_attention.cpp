// Ring attention (2310.01889) for keys and values: they go from each rank to the next, and what a
// rank's queries make of each part is merged by log-sums. A rank holds its own part and one other,
// the next while it comes, and no more of any number of ranks; outputs so far and their merge are
// in the acc type.
//
//   F    fragments of tokens a rank has: one, or two in a zig-zag
//   part s  of each fragment of rank s the last rows, as many as others may see; those that came
//           in lie before the first
// At step k rank r works on part r - k (modulo R), while part r - k - 1 comes from rank r - 1. A
// part goes as far as a query sees it. Backward, gradients of a part go along with it, in the acc
// type, and home from there.
//
// In a zig-zag each rank has an early and a late fragment, so that all have as much to do under a
// causal mask. Tokens change hands before and after, and the model around knows nothing of it.
#include <algorithm>
#include <numeric>

#include "autograd/functional.h"
#include "autograd/tape.h"
#include "core/comm/lists.h"
#include "core/ops/scale_add/scale_add.h"
#include "core/ops/softmax/softmax.h"
#include "parallel/sequence/fragments.h"
#include "parallel/sequence/part.h"
#include "parallel/sequence/strategy.h"

namespace ls::parallel {
namespace {

using ag::Var;
using layers::input_of;
using layers::is_sequence;
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

/// `sum` in the acc type.
void add_to(Tensor& sum, const Tensor& x) {
  if (!sum.defined()) {
    sum = x.to(acc_dtype(x.dtype()));
    sum = sum.dtype() == x.dtype() ? sum.clone() : sum;
  } else {
    sum.add_(x.to(sum.dtype()));
  }
}

class Ring {
 public:
  Ring(SplitCall call, bool zig_zags)
      : scan_(call.scan),
        op_(*scan_.op),
        attrs_(std::move(call.attrs)),
        stretch_(call.stretch),
        comm_(std::move(call.comm)),
        keep_(call.call.keep),
        zig_zags_(zig_zags),
        rank_(comm_->rank()) {
    for (const Var& v : call.inputs) {
      in_.push_back(value_of(v));
      wanted_.push_back(v.requires_grad());
    }
    std::vector<Index> tokens(static_cast<std::size_t>(comm_->size()));
    const Index own = stretch_.tokens();
    comm_->all_gather(&own, tokens.data(), 1, DType::kI64);
    home_ = contiguous(tokens);
    const Index total = std::accumulate(tokens.begin(), tokens.end(), Index{0});
    owned_ = zig_zags_ ? zig_zag(total, comm_->size()) : home_;
    for (const layers::StatePort& port : scan_.states) {
      Tensor& given = input_of(op_, in_, port.input);
      initial_.push_back(std::exchange(given, Tensor()));
    }
    cached_ = initial_[0].defined() ? initial_[0].size(1) : 0;
    reach_ = scan_.reach ? scan_.reach(in_, attrs_.get()) : -1;
    take_tokens();
    for (std::size_t f = 0; f < fragments().size(); ++f) {
      Tensors rows = scan_.summarize(in_of_[f], attrs_.get());
      if (has_cache(f)) {
        rows = scan_.act(rows, initial_, attrs_.get());
      }
      part_.insert(part_.end(), rows.begin(), rows.end());
    }
  }
  std::string name() const { return op_.name + " in a ring"; }

  Tensors run() {
    std::vector<Merged> merged(fragments().size());
    Tensors held = part_;
    for (int step = 0; step < comm_->size(); ++step) {
      PendingLists next = begin_step(step, held);
      for (const Pair& pair : pairs(step)) {
        Tensors in;
        const auto attrs = look_at(step, pair, held, in);
        const Tensors out = run_forward(op_, in, attrs);
        merged[pair.query].add(output_of(op_, out, values_name()),
                               output_of(op_, out, scan_.merged_by));
      }
      held = finish_step(step, next);
    }
    std::vector<Tensors> made;
    for (const Merged& m : merged) {
      o_.push_back(m.o.to(type_of_op()));
      lse_.push_back(m.lse);
      made.push_back({o_.back(), m.lse});
    }
    const Tensors own = to_home(made);
    Tensors out(op_.out.size());
    output_of(op_, out, values_name()) = own[0];
    output_of(op_, out, scan_.merged_by) = own[1];
    if (keep_) {
      keep_states(out);
    }
    return out;
  }

  /// Gradients of the inputs for those of the outputs.
  Tensors derive(std::span<const Tensor> dout) {
    const Tensors all(dout.begin(), dout.end());
    const std::vector<Tensors> seeds =
        to_fragments({output_of(op_, all, values_name()), output_of(op_, all, scan_.merged_by)});
    din_.assign(fragments().size(), Tensors(in_.size()));
    Tensors held = part_, carried, home;
    for (const Tensor& t : part_) {
      carried.push_back(Tensor::zeros(t.shape(), acc_dtype(t.dtype()), t.device()));
    }
    for (int step = 0; step < comm_->size(); ++step) {
      PendingLists next = begin_step(step, held);
      for (const Pair& pair : pairs(step)) {
        derive_pair(step, pair, held, seeds[pair.query], carried);
      }
      held = finish_step(step, next);
      carried = pass(step, carried, home);
    }
    add_home(home);
    return gradients(dout);
  }

 private:
  /// A fragment of the rank's own queries and one of the part that it works on.
  struct Pair {
    std::size_t query, keys;
    bool own;  ///< one fragment: its own rows
  };
  const std::string& values_name() const { return op_.out.front().name; }
  const std::vector<Fragment>& fragments() const { return of(rank_); }
  const std::vector<Fragment>& of(int rank) const { return owned_[static_cast<std::size_t>(rank)]; }
  DType type_of_op() const { return op_dtype(op_, in_); }
  Device& device() const { return in_.front().device(); }
  bool has_cache(std::size_t f) const { return rank_ == 0 && f == 0 && cached_ > 0; }
  std::size_t ports() const { return scan_.states.size(); }
  /// Of state p, the rows that the stretch itself has: the input of its name.
  std::size_t key(std::size_t p) const {
    return static_cast<std::size_t>(op_.input_index(scan_.states[p].name));
  }

  // ---- tokens of this rank's fragments

  void take_tokens() {
    const bool told =
        zig_zags_ || stretch_.has_documents() ||
        !stretch_.all_have_seen(home_[static_cast<std::size_t>(rank_)][0].from + cached_);
    Tensors list;
    for (std::size_t i = 0; i < in_.size(); ++i) {
      list.push_back(is_sequence(op_.in[i]) ? in_[i] : Tensor());
    }
    if (told) {  // counted from the first token of the whole
      Tensor start = stretch_.tensors().start.to(cpu()).clone();
      for (Index i = 0; i < start.numel(); ++i) {
        start.data<std::int64_t>()[i] += home_[static_cast<std::size_t>(rank_)][0].from;
      }
      list.push_back(start);
    }
    for (Tensors& mine : to_fragments(list)) {
      start_.push_back(told ? mine.back().to(cpu()) : Tensor());
      mine.resize(in_.size());
      for (std::size_t i = 0; i < in_.size(); ++i) {
        mine[i] = mine[i].defined() ? mine[i] : in_[i];
      }
      in_of_.push_back(std::move(mine));
    }
  }
  /// Sequences of this rank's tokens, by fragment of those that it works on.
  std::vector<Tensors> to_fragments(const Tensors& list) const {
    if (!zig_zags_) {
      return {list};
    }
    std::vector<Tensors> mine = exchange_tokens(*comm_, home_, owned_, {list}, device());
    std::size_t f = 0;
    for (Tensors& of_fragment : mine) {
      const bool empty = fragments()[f++].tokens() == 0;
      for (std::size_t i = 0; i < list.size() && empty; ++i) {
        of_fragment[i] = list[i].defined() ? list[i].slice(1, 0, 0) : Tensor();
      }
    }
    return mine;
  }
  Tensors to_home(const std::vector<Tensors>& mine) const {
    if (!zig_zags_) {
      return mine.front();
    }
    Tensors list = exchange_tokens(*comm_, owned_, home_, mine, device()).front();
    const bool empty = home_[static_cast<std::size_t>(rank_)][0].tokens() == 0;
    for (std::size_t i = 0; i < list.size() && empty; ++i) {
      const Tensor& like = mine.front()[i];
      list[i] = like.defined() ? like.slice(1, 0, 0) : Tensor();
    }
    return list;
  }

  // ---- who works on what, and when

  bool sees(int rank, std::size_t q, int of_rank, std::size_t k) const {
    const Fragment query = of(rank)[q], keys = of(of_rank)[k];
    const bool rows = keys.tokens() > 0 || (of_rank == 0 && k == 0 && cached_ > 0);
    const bool near = reach_ < 0 || query.from - keys.to < reach_;
    const bool before = keys.to <= query.from;
    return query.tokens() > 0 && rows && before && near;
  }
  int part_at(int step) const { return (rank_ - step + comm_->size()) % comm_->size(); }
  /// After how many steps the last rank that sees part s has it; 0: no other sees it.
  int steps(int s) const {
    int last = 0;
    for (int k = 1; k < comm_->size(); ++k) {
      const int r = (s + k) % comm_->size();
      for (std::size_t q = 0; q < of(r).size(); ++q) {
        for (std::size_t keys = 0; keys < of(s).size(); ++keys) {
          last = sees(r, q, s, keys) ? k : last;
        }
      }
    }
    return last;
  }
  bool has(int step) const { return step < comm_->size() && step <= steps(part_at(step)); }
  bool sends(int step) const { return step < steps(part_at(step)); }
  bool gets(int step) const { return has(step + 1); }
  std::vector<Pair> pairs(int step) const {
    std::vector<Pair> all;
    for (std::size_t q = 0; q < fragments().size() && has(step); ++q) {
      if (step == 0) {
        all.push_back({q, q, true});
      }
      for (std::size_t k = 0; k < fragments().size(); ++k) {
        if (sees(rank_, q, part_at(step), k) && !(step == 0 && q == k)) {
          all.push_back({q, k, false});
        }
      }
    }
    return all;
  }
  PendingLists begin_exchange_of(int step, const Tensors& list) const {
    const int ranks = comm_->size();
    return begin_exchange(
        *comm_, sends(step) ? list : Tensors(), sends(step) ? (rank_ + 1) % ranks : kNoRank,
        gets(step) ? (rank_ + ranks - 1) % ranks : kNoRank, part_.size(), device());
  }
  PendingLists begin_step(int step, const Tensors& held) const {
    return sends(step) || gets(step) ? begin_exchange_of(step, held) : PendingLists();
  }
  Tensors finish_step(int step, PendingLists& next) const {
    if (!sends(step) && !gets(step)) {
      return {};
    }
    Tensors list = next.wait_one();
    return gets(step) ? std::move(list) : Tensors();
  }

  // ---- one pair

  Tensor own_rows(std::size_t f, std::size_t p) const {
    return behind(has_cache(f) ? initial_[p] : Tensor(), in_of_[f][key(p)]);
  }
  /// Inputs and attributes of the op whose queries see these rows alone.
  std::shared_ptr<const void> look_at(int step, const Pair& pair, const Tensors& held,
                                      Tensors& in) const {
    Tensors keys;
    for (std::size_t p = 0; p < ports(); ++p) {
      keys.push_back(pair.own ? own_rows(pair.query, p) : held[pair.keys * ports() + p]);
    }
    const Index rows = keys[0].size(1), first = of(part_at(step))[pair.keys].to - rows;
    in = in_of_[pair.query];
    auto attrs =
        scan_.look_at(in, keys, fragments()[pair.query].from - first, pair.own, attrs_.get());
    if (const Tensor& all = start_[pair.query]; all.defined()) {
      Tensor start = all.clone();
      for (Index i = 0; i < start.numel(); ++i) {
        auto& at = start.data<std::int64_t>()[i];
        at = std::min<Index>(at - first, rows);
      }
      input_of(op_, in, "start") = start.to(device());
    }
    return attrs;
  }
  /// Adds this rank's gradients for what it made of a part to its own, and those of the part to
  /// `carried`.
  void derive_pair(int step, const Pair& pair, const Tensors& held, const Tensors& dout,
                   Tensors& carried) {
    Tensors& din = din_[pair.query];
    Tensors in;
    const auto attrs = look_at(step, pair, held, in);
    const std::vector<ShapeOf> shapes = shapes_of(in);
    const bool some = std::ranges::any_of(dout, [](const Tensor& t) { return t.defined(); });
    if (some) {
      Tensors saved(op_.out.size()), seeds(op_.out.size());
      output_of(op_, saved, values_name()) = o_[pair.query];
      output_of(op_, saved, scan_.merged_by) = lse_[pair.query];
      output_of(op_, seeds, values_name()) = dout[0];
      output_of(op_, seeds, scan_.merged_by) = dout[1];
      std::vector<bool> wanted = wanted_;
      for (std::size_t p = 0; p < ports(); ++p) {
        wanted[key(p)] = true;
      }
      for (std::size_t i = 0; i < in.size(); ++i) {
        wanted[i] = wanted[i] && in[i].defined();
        in[i] = op_.in[i].saved ? in[i] : Tensor();
      }
      Tensors d = run_backward(op_, in, saved, seeds, wanted, shapes, op_dtype(op_, shapes), attrs);
      for (std::size_t p = 0; p < ports(); ++p) {
        const Tensor of_rows = std::exchange(d[key(p)], Tensor());
        add_to(pair.own ? din[key(p)] : carried[pair.keys * ports() + p], of_rows);
      }
      for (std::size_t i = 0; i < d.size(); ++i) {
        if (d[i].defined()) {
          add_to(din[i], d[i]);
        }
      }
    }
    for (std::size_t p = 0; p < ports() && pair.own; ++p) {
      if (!din[key(p)].defined()) {
        const Tensor rows = own_rows(pair.query, p);
        din[key(p)] = Tensor::zeros(rows.shape(), acc_dtype(rows.dtype()), rows.device());
      }
    }
  }

  // ---- gradients on their way

  /// Hands gradients of the part of this step on, or home from the last rank that sees it.
  Tensors pass(int step, const Tensors& carried, Tensors& home) const {
    Tensors next;
    if (sends(step) || gets(step)) {
      PendingLists message = begin_exchange_of(step, carried);
      next = finish_step(step, message);
    }
    if (step == 0) {
      home = steps(rank_) == 0 ? carried : Tensors();
    } else {
      const int ranks = comm_->size(), s = part_at(step);
      const bool ends = steps(s) == step, comes = steps(rank_) == step;
      if (ends || comes) {
        PendingLists message =
            begin_exchange(*comm_, ends ? carried : Tensors(), ends ? s : kNoRank,
                           comes ? (rank_ + step) % ranks : kNoRank, part_.size(), device());
        Tensors list = message.wait_one();
        if (comes) {
          home = std::move(list);
        }
      }
    }
    return next;  // what comes along with the next part, to which this rank adds its own
  }
  /// What was made of this rank's part: of the last rows of its fragments.
  void add_home(const Tensors& home) {
    for (std::size_t i = 0; i < home.size(); ++i) {
      Tensor& all = din_[i / ports()][key(i % ports())];
      all.slice(1, all.size(1) - home[i].size(1), all.size(1)).add_(home[i]);
    }
  }
  /// Of this rank's tokens as they came.
  Tensors gradients(std::span<const Tensor> dout) {
    Tensors first(ports());  // of what came in
    for (std::size_t f = 0; f < din_.size(); ++f) {
      for (std::size_t p = 0; p < ports(); ++p) {
        Tensor& rows = din_[f][key(p)];
        const Index came = has_cache(f) ? cached_ : 0;
        first[p] = came > 0 ? rows.slice(1, 0, came) : first[p];
        rows = rows.slice(1, came, rows.size(1));
      }
    }
    Tensors din = sequences_home();
    add_outgoing(dout, din, first);
    for (std::size_t i = 0; i < in_.size(); ++i) {
      if (!is_sequence(op_.in[i])) {
        for (const Tensors& of_fragment : din_) {
          if (of_fragment[i].defined()) {
            add_to(din[i], of_fragment[i]);
          }
        }
      } else if (wanted_[i] && !din[i].defined()) {  // where no gradient came
        din[i] = Tensor::zeros(in_[i].shape(), in_[i].dtype(), device());
      }
    }
    for (std::size_t p = 0; p < ports(); ++p) {
      input_of(op_, din, scan_.states[p].input) = first[p];
    }
    for (std::size_t i = 0; i < din.size(); ++i) {
      if (din[i].defined()) {
        din[i] = din[i].to(op_.in[i].grad_dtype(type_of_op()));
      }
    }
    return din;
  }
  Tensors sequences_home() const {
    std::vector<Tensors> lists;
    for (const Tensors& of_fragment : din_) {
      Tensors list;
      for (std::size_t i = 0; i < in_.size(); ++i) {
        const bool goes = is_sequence(op_.in[i]) && of_fragment[i].defined();
        list.push_back(!goes       ? Tensor()
                       : zig_zags_ ? of_fragment[i].to(op_.in[i].grad_dtype(type_of_op()))
                                   : of_fragment[i]);
      }
      lists.push_back(std::move(list));
    }
    return to_home(lists);
  }

  void keep_states(Tensors& out) {
    Tensors own = zig_zags_ ? scan_.summarize(in_, attrs_.get()) : part_;
    if (zig_zags_ && rank_ == 0 && cached_ > 0) {
      own = scan_.act(own, initial_, attrs_.get());
    }
    const std::vector<Tensors> parts = begin_gather(*comm_, own, device()).wait();
    Tensors states = parts[0];
    for (std::size_t s = 1; s < parts.size(); ++s) {
      states = scan_.act(parts[s], states, attrs_.get());
    }
    for (std::size_t p = 0; p < states.size(); ++p) {
      output_of(op_, out, scan_.states[p].output) = states[p];
    }
    kept_ = shapes_of(states);
  }
  /// Gradients of states out, summed over ranks, belong to the rows that they were: this rank's, or
  /// on the first those that came in.
  void add_outgoing(std::span<const Tensor> dout, Tensors& din, Tensors& first) const {
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
    const Fragment own = home_[static_cast<std::size_t>(rank_)][0];
    const Index total = home_.back()[0].to;
    for (std::size_t p = 0; p < all.size(); ++p) {
      const Index begin = total - all[p].size(1);  // position of the first row that is kept
      const auto add = [&](Tensor& rows, Fragment at) {
        const Index from = std::max(at.from, begin);
        if (rows.defined() && from < at.to) {
          rows.slice(1, from - at.from, at.tokens())
              .add_(all[p].slice(1, from - begin, at.to - begin).to(rows.dtype()));
        }
      };
      if (Tensor& rows = din[key(p)]; rows.defined()) {
        rows = rows.to(acc_dtype(rows.dtype()));
        add(rows, own);
      }
      if (rank_ == 0) {
        add(first[p], {-cached_, 0});
      }
    }
  }

  const ScanInfo& scan_;
  const OpInfo& op_;
  std::shared_ptr<const void> attrs_;
  layers::Stretch stretch_;
  std::shared_ptr<Communicator> comm_;
  bool keep_, zig_zags_;
  int rank_;
  Ownership home_, owned_;  ///< tokens as the stretch has them, and as they are worked on
  Tensors in_, initial_;
  std::vector<bool> wanted_;
  Index cached_ = 0, reach_ = -1;  ///< rows that came in; tokens that a query sees back, -1: all
  std::vector<Tensors> in_of_;     ///< by fragment
  Tensors start_;                  ///< first tokens that queries see, or undefined: all
  Tensors part_;                   ///< of each fragment the states
  Tensors o_, lse_;                ///< by fragment
  std::vector<Tensors> din_;       ///< by fragment, acc
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

Vars run_ring(SplitCall call, bool zig_zags) {
  const Vars inputs = call.inputs;
  auto ring = std::make_unique<Ring>(std::move(call), zig_zags);
  const Tensors out = ring->run();
  if (!ag::Tape::records(inputs)) {
    return Vars(out.begin(), out.end());
  }
  return ag::Tape::current()->record(std::make_unique<RingNode>(std::move(ring)), inputs, out);
}

class RingAttention final : public Strategy {
 public:
  bool serves(const AskedScan& asked) const override { return asked.merges; }
  /// All but the first part come while another is worked on.
  Payload payload(const SplitSizes& s) const override {
    const auto steps = static_cast<double>(s.ranks - 1), part = static_cast<double>(s.state);
    return {.sent = steps * part, .path = part, .steps = steps, .held = 2 * part};
  }
  Vars run(SplitCall call) const override { return run_ring(std::move(call), false); }
};
LS_STRATEGY(RingAttention, "ring_attention",
            "keys and values go round; partial attention is merged by log-sums");

class ZigZag final : public Strategy {
 public:
  bool serves(const AskedScan& asked) const override { return asked.merges; }
  Payload payload(const SplitSizes& s) const override {
    const auto ranks = static_cast<std::size_t>(s.ranks);
    const Ownership home = contiguous(std::vector<Index>(ranks, s.total / s.ranks)),
                    owned = zig_zag(home.back()[0].to, static_cast<int>(s.ranks));
    const std::vector<Index> there = tokens_sent(home, owned), back = tokens_sent(owned, home);
    const auto steps = static_cast<double>(s.ranks - 1), part = static_cast<double>(s.state);
    Payload most{.sent = 0, .path = part, .steps = steps + 2, .held = 2 * part};
    for (std::size_t r = 0; r < ranks; ++r) {
      const double moved = static_cast<double>(there[r] * s.in.all + back[r] * s.out.all);
      most.sent = std::max(most.sent, moved + steps * part);
      most.path = std::max(most.path, moved + part);
    }
    return most;
  }
  Vars run(SplitCall call) const override { return run_ring(std::move(call), true); }
};
LS_STRATEGY(ZigZag, "zig_zag",
            "ring attention where each rank has an early and a late part, for balance");

}  // namespace
}  // namespace ls::parallel
