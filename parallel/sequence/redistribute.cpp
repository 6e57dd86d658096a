// Shapes: a rank has [B,T_r,...,X,...] of sequence inputs and outputs, X an axis that is cut. It
// gets [B,T,...,X_r,...]. Of inputs of another kind (weights, states) every rank has all of X and
// takes its share, and its gradient is that share among zeros.
#include "parallel/sequence/redistribute.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "autograd/functional.h"
#include "autograd/tape.h"
#include "core/comm/lists.h"
#include "parallel/sequence/heads.h"
#include "parallel/sequence/part.h"

namespace ls::parallel {
namespace {

using ag::Var;
using layers::is_sequence;
using Vars = std::vector<Var>;

Tensor end_to_end(const Tensors& parts, int axis) {
  Vars defined;
  for (const Tensor& t : parts) {
    if (t.defined()) {
      defined.emplace_back(t);
    }
  }
  const ag::NoGrad no_grad;
  return defined.empty() ? Tensor() : ag::concat(defined, axis).value();
}

/// Made in the acc type; undefined without any.
Tensor sum_of(const Tensors& parts) {
  Tensor sum;
  DType type = DType::kF32;
  for (const Tensor& t : parts) {
    if (t.defined()) {
      type = t.dtype();
      sum = sum.defined() ? sum.add_(t.to(sum.dtype())) : t.to(acc_dtype(type));
    }
  }
  return sum.defined() ? sum.to(type) : sum;
}

/// The share of a rank: units [u r / R, u (r + 1) / R) of u, where an axis of n has n / u in each.
class Shares {
 public:
  Shares(const layers::ScanInfo& scan, const std::vector<std::string>& axes, const Vars& inputs,
         int ranks)
      : ranks_(ranks) {
    for (const ArgSpec& a : scan.op->in) {
      in_.push_back(axis_of(a, axes));
    }
    for (const layers::StatePort& port : scan.states) {
      in_.push_back(in_[static_cast<std::size_t>(scan.op->input_index(port.input))]);
    }
    for (const ArgSpec& a : scan.op->out) {
      out_.push_back(axis_of(a, axes));
    }
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (inputs[i].defined() && in_[i] < 0) {
        units_ = std::gcd(units_, inputs[i].size(in_[i]));
      }
    }
  }
  bool none(int rank) const { return begin(rank) == begin(rank + 1); }
  /// Has a share, and what outputs without such an axis are taken from, which all have alike.
  int speaker() const {
    int r = 0;
    while (r + 1 < ranks_ && none(r)) {
      ++r;
    }
    return r;
  }
  bool cuts_input(std::size_t i) const { return in_[i] < 0; }
  int out_axis(std::size_t i) const { return out_[i]; }
  int in_axis(std::size_t i) const { return in_[i]; }
  Tensor of_input(const Tensor& all, std::size_t i, int rank) const {
    return of(all, in_[i], rank);
  }
  Tensor of_output(const Tensor& all, std::size_t i, int rank) const {
    return of(all, out_[i], rank);
  }

 private:
  Index begin(int rank) const { return units_ * rank / ranks_; }
  Tensor of(const Tensor& all, int axis, int rank) const {
    if (!all.defined() || axis == 0) {
      return all;
    }
    const Index each = units_ > 0 ? all.size(axis) / units_ : 0;
    return all.slice(axis, begin(rank) * each, begin(rank + 1) * each);
  }
  int ranks_;
  Index units_ = 0;
  std::vector<int> in_, out_;
};

/// What other ranks must know of a stretch: by row tokens seen and left, whether there are
/// documents at all, whether the row has begun, the tokens, then the starts of its documents, -1
/// where there are no more.
constexpr Index kTold = 5;
Tensor told(const layers::Stretch& stretch) {
  std::size_t most = 0;
  for (Index r = 0; r < stretch.rows(); ++r) {
    most = std::max(most, stretch.starts(r).size());
  }
  const Index wide = kTold + static_cast<Index>(most);
  Tensor out = Tensor::full({std::max<Index>(stretch.rows(), 1), wide}, DType::kI64, -1);
  auto* at = out.data<std::int64_t>();
  at[4] = stretch.tokens();
  for (Index r = 0; r < stretch.rows(); ++r, at += wide) {
    at[0] = stretch.seen(r);
    at[1] = stretch.left(r);
    at[2] = stretch.has_documents() ? 1 : 0;
    at[3] = stretch.begun(r) ? 1 : 0;
    at[4] = stretch.tokens();
    std::ranges::copy(stretch.starts(r), at + kTold);
  }
  return out;
}

/// The whole sequence, of the stretches of all ranks, which have so many tokens.
layers::Stretch whole_of(const layers::Stretch& own, const Tensors& told,
                         const std::vector<Index>& tokens) {
  layers::StretchPlace place{.device = &own.positions().device(), .direction = own.direction()};
  bool documents = false;
  for (Index r = 0; r < own.rows(); ++r) {
    std::vector<Index> starts;
    Index before = 0;
    for (std::size_t s = 0; s < told.size(); ++s) {
      const Index wide = told[s].size(1);
      const auto* const at = told[s].data<std::int64_t>() + r * wide;
      if (s == 0) {
        place.seen.push_back(at[0]);
        place.begun.push_back(at[3] > 0);
      }
      if (s + 1 == told.size()) {
        place.left.push_back(at[1]);
      }
      documents = documents || at[2] > 0;
      for (Index i = kTold; i < wide && at[i] >= 0; ++i) {
        starts.push_back(before + at[i]);
      }
      before += tokens[s];
    }
    place.documents.push_back(std::move(starts));
  }
  if (!documents) {
    place.documents.clear();
  }
  return layers::Stretch(own.rows(), std::accumulate(tokens.begin(), tokens.end(), Index{0}),
                         std::move(place));
}

class Redistributed {
 public:
  Redistributed(SplitCall call, const std::vector<std::string>& axes, bool recorded)
      : scan_(call.scan),
        comm_(std::move(call.comm)),
        shares_(scan_, axes, call.inputs, comm_->size()),
        updates_(call.call.updates),
        keep_(call.call.keep) {
    gather(call, recorded);
  }
  std::string name() const { return scan_.op->name + " over ranks"; }

  /// Outputs of this rank's tokens, and the states out of all of them.
  Tensors run() {
    Tensors own(scan_.op->out.size());
    if (part_) {
      part_->run(nullptr);
      for (std::size_t i = 0; i < own.size(); ++i) {
        own[i] = value_of(part_->out()[i]);
      }
    }
    Tensors out =
        to_tokens(own, scan_.op->out, false, [this](std::size_t i) { return shares_.out_axis(i); });
    if (keep_) {
      keep_states(own, out);
    }
    return out;
  }

  /// Gradients of the inputs, then of what documents start from, for those of the outputs.
  Tensors derive(std::span<const Tensor> dout) {
    Tensors mine = to_shares(dout);
    const Tensors dstates = outgoing(dout);
    Tensors din(shapes_.size());
    if (part_) {
      part_->derive(mine, dstates);
      din = part_->take_gradients();
    }
    Tensors out =
        to_tokens(din, scan_.op->in, true, [this](std::size_t i) { return shares_.in_axis(i); });
    for (std::size_t i = 0; i < din.size(); ++i) {
      if (i < scan_.op->in.size() && is_sequence(scan_.op->in[i])) {
        continue;
      }
      out.resize(din.size());
      if (din[i].defined() && shares_.cuts_input(i)) {
        out[i] = Tensor::zeros(shapes_[i].shape(), din[i].dtype(), din[i].device());
        shares_.of_input(out[i], i, comm_->rank()).copy_(din[i]);
      } else {
        out[i] = din[i];
      }
    }
    return out;
  }

 private:
  int ranks() const { return comm_->size(); }
  Tensor tokens_of(const Tensor& all, int rank) const {
    const auto first = tokens_.begin();
    const Index from = std::accumulate(first, first + rank, Index{0});
    return all.slice(1, from * updates_,
                     (from + tokens_[static_cast<std::size_t>(rank)]) * updates_);
  }

  /// Every rank's tokens of this rank's share.
  void gather(SplitCall& call, bool recorded) {
    Vars all = call.inputs;
    all.insert(all.end(), call.call.fresh.begin(), call.call.fresh.end());
    Tensors values;
    for (const Var& v : all) {
      values.push_back(value_of(v));
    }
    shapes_ = shapes_of(values);
    device_ = &cpu();
    std::vector<Tensors> lists;
    for (int r = 0; r < ranks(); ++r) {
      Tensors list{told(call.stretch)};
      for (std::size_t i = 0; i < call.inputs.size(); ++i) {
        const bool goes = values[i].defined() && is_sequence(scan_.op->in[i]);
        list.push_back(goes ? shares_.of_input(values[i], i, r) : Tensor());
        device_ = goes ? &values[i].device() : device_;
      }
      lists.push_back(std::move(list));
    }
    const std::vector<Tensors> came = exchange(lists);
    Tensors said;
    for (const Tensors& list : came) {
      said.push_back(list[0].to(cpu()));
      tokens_.push_back(said.back().data<std::int64_t>()[4]);
      const auto given =
          std::find_if(list.begin() + 1, list.end(), [](const Tensor& t) { return t.defined(); });
      if (tokens_.back() > 0) {  // a rank without tokens cannot tell
        updates_ = given->size(1) / tokens_.back();
      }
    }
    if (shares_.none(comm_->rank())) {
      return;
    }
    stretch_ = whole_of(call.stretch, said, tokens_);
    Vars mine;
    for (std::size_t i = 0; i < call.inputs.size(); ++i) {
      Tensor x = values[i];
      if (x.defined() && is_sequence(scan_.op->in[i])) {
        Tensors pieces;
        for (const Tensors& list : came) {
          pieces.push_back(list[i + 1]);
        }
        x = end_to_end(pieces, 1);
      } else {
        x = shares_.of_input(x, i, comm_->rank());
      }
      mine.push_back(call.inputs[i].requires_grad() ? Var::leaf(x) : Var(x));
    }
    layers::ScanCall own = call.call;
    own.updates = updates_;
    for (std::size_t p = 0; p < own.fresh.size(); ++p) {
      const Var& f = own.fresh[p];
      const Tensor x = shares_.of_input(value_of(f), call.inputs.size() + p, comm_->rank());
      own.fresh[p] = f.requires_grad() ? Var::leaf(x) : Var(x);
    }
    part_ = std::make_unique<Part>(scan_, mine, call.attrs, *stretch_, own, call.local, recorded);
  }
  std::vector<Tensors> exchange(const std::vector<Tensors>& lists) {
    return begin_all_to_all(*comm_, lists, *device_).wait();
  }

  /// Of tensors of all tokens those of this rank's: shares side by side. What has no such axis is
  /// alike on all ranks, or to be summed.
  template <class AxisOf>
  Tensors to_tokens(const Tensors& mine, const std::vector<ArgSpec>& args, bool sum,
                    AxisOf axis_of) {
    std::vector<Tensors> lists;
    for (int r = 0; r < ranks(); ++r) {
      Tensors list(args.size());
      for (std::size_t i = 0; i < args.size(); ++i) {
        const bool speaks = sum || axis_of(i) < 0 || shares_.speaker() == comm_->rank();
        if (is_sequence(args[i]) && mine[i].defined() && speaks) {
          list[i] = tokens_of(mine[i], r);
        }
      }
      lists.push_back(std::move(list));
    }
    const std::vector<Tensors> came = exchange(lists);
    Tensors out(args.size());
    for (std::size_t i = 0; i < args.size(); ++i) {
      Tensors parts;
      for (const Tensors& list : came) {
        parts.push_back(list[i]);
      }
      if (axis_of(i) < 0) {
        out[i] = end_to_end(parts, axis_of(i));
        continue;
      }
      out[i] = sum_of(parts);
    }
    return out;
  }
  /// Gradients of this rank's tokens as those of all tokens of its share.
  Tensors to_shares(std::span<const Tensor> dout) {
    std::vector<Tensors> lists;
    for (int r = 0; r < ranks(); ++r) {
      Tensors list(dout.size());
      for (std::size_t i = 0; i < dout.size(); ++i) {
        if (is_sequence(scan_.op->out[i]) && heard(i, r)) {
          list[i] = shares_.of_output(dout[i], i, r);
        }
      }
      lists.push_back(std::move(list));
    }
    const std::vector<Tensors> came = exchange(lists);
    Tensors mine(dout.size());
    for (std::size_t i = 0; part_ && i < mine.size(); ++i) {
      const bool some = std::any_of(came.begin(), came.end(),
                                    [i](const Tensors& list) { return list[i].defined(); });
      if (!some) {
        continue;
      }
      const Tensor& like = part_->out()[i].value();
      mine[i] = Tensor::zeros(like.shape(), like.dtype(), like.device());
      for (int r = 0; r < ranks(); ++r) {
        if (const Tensor& t = came[static_cast<std::size_t>(r)][i]; t.defined()) {
          tokens_of(mine[i], r).copy_(t);
        }
      }
    }
    return mine;
  }

  /// The gradient of an output concerns this rank's share.
  bool heard(std::size_t output, int rank) const {
    return shares_.out_axis(output) < 0 || rank == shares_.speaker();
  }
  std::size_t port_out(std::size_t p) const {
    return static_cast<std::size_t>(scan_.op->output_index(scan_.states[p].output));
  }
  void keep_states(const Tensors& own, Tensors& out) {
    Tensors states;
    for (std::size_t p = 0; p < scan_.states.size(); ++p) {
      states.push_back(own[port_out(p)]);
    }
    const std::vector<Tensors> all = begin_gather(*comm_, states, *device_).wait();
    for (std::size_t p = 0; p < states.size(); ++p) {
      Tensors parts;
      for (const Tensors& list : all) {
        parts.push_back(list[p]);
      }
      const int axis = shares_.out_axis(port_out(p));
      out[port_out(p)] =
          axis < 0 ? end_to_end(parts, axis) : parts[static_cast<std::size_t>(shares_.speaker())];
      kept_.push_back(shapes_of(Tensors{out[port_out(p)]})[0]);
    }
  }
  /// This rank's share of the gradients of states out, which are summed over ranks.
  Tensors outgoing(std::span<const Tensor> dout) {
    Tensors mine(scan_.states.size()), all;
    if (!keep_) {
      return mine;
    }
    for (std::size_t p = 0; p < mine.size(); ++p) {
      const Tensor& own = dout[port_out(p)];
      all.push_back(own.defined() ? own.clone()
                                  : Tensor::zeros(kept_[p].shape(), kept_[p].dtype(), *device_));
    }
    Pending summed = begin_all_reduce(*comm_, all);
    summed.wait();
    for (std::size_t p = 0; p < mine.size(); ++p) {
      if (heard(port_out(p), comm_->rank())) {
        mine[p] = shares_.of_output(all[p], port_out(p), comm_->rank()).contiguous();
      }
    }
    return mine;
  }

  const layers::ScanInfo& scan_;
  std::shared_ptr<Communicator> comm_;
  Shares shares_;
  Index updates_;
  bool keep_;
  Device* device_ = nullptr;
  std::vector<Index> tokens_;  ///< of each rank
  std::optional<layers::Stretch> stretch_;
  std::unique_ptr<Part> part_;  ///< null: this rank has no share
  std::vector<ShapeOf> shapes_, kept_;
};

class RedistributedNode final : public ag::NodeFn {
 public:
  explicit RedistributedNode(std::unique_ptr<Redistributed> scan) : scan_(std::move(scan)) {}
  std::string name() const override { return scan_->name(); }
  bool must_run() const override { return true; }
  void backward(std::span<const Tensor> dout, const std::vector<bool>&,
                std::span<Tensor> din) override {
    std::ranges::copy(scan_->derive(dout), din.begin());
  }

 private:
  std::unique_ptr<Redistributed> scan_;
};

}  // namespace

bool falls_apart(const layers::ScanInfo& scan, const std::vector<std::string>& axes) {
  return std::ranges::any_of(scan.op->out, [&](const ArgSpec& a) { return axis_of(a, axes) < 0; });
}

Payload redistribution(const SplitSizes& s, Index cut_in, Index cut_out, Index units) {
  const auto ranks = static_cast<double>(s.ranks), own = static_cast<double>(s.tokens),
             others = static_cast<double>(s.total - s.tokens);
  const double there = own * (static_cast<double>(cut_in) * (ranks - 1) / ranks +
                              static_cast<double>(s.in.all - cut_in) * (ranks - 1)),
               back = others * (static_cast<double>(cut_out) / ranks +
                                static_cast<double>(s.out.all - cut_out));  // of one rank alone
  const double sent = there + back;
  // The largest share, where they are not equal.
  const Index all = std::max<Index>(1, units), most = (all + s.ranks - 1) / s.ranks;
  const double uneven = ranks * static_cast<double>(most) / static_cast<double>(all);
  const auto cut = static_cast<double>(cut_in + cut_out),
             whole = static_cast<double>(s.in.all + s.out.all) - cut;
  return {.sent = sent,
          .path = sent * uneven,
          .steps = 2,
          .held = others * (cut * uneven / ranks + whole)};
}

Vars run_redistributed(SplitCall call, const std::vector<std::string>& axes) {
  Vars all = call.inputs;
  all.insert(all.end(), call.call.fresh.begin(), call.call.fresh.end());
  const bool recorded = ag::Tape::records(all);
  auto scan = std::make_unique<Redistributed>(std::move(call), axes, recorded);
  const Tensors out = scan->run();
  if (!recorded) {
    return Vars(out.begin(), out.end());
  }
  return ag::Tape::current()->record(std::make_unique<RedistributedNode>(std::move(scan)), all,
                                     out);
}

}  // namespace ls::parallel
