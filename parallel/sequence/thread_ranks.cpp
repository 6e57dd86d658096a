#include "parallel/sequence/thread_ranks.h"

#include <algorithm>

#include "autograd/functional.h"
#include "autograd/tape.h"
#include "core/comm/thread_comm.h"
#include "parallel/sequence/runner.h"

namespace ls::parallel {
namespace {

using ag::Var;
using layers::is_sequence;
using layers::ScanInfo;
using Vars = std::vector<Var>;

Tensors values_of(const Vars& vars) {
  Tensors out;
  for (const Var& v : vars) {
    out.push_back(v.defined() ? v.value() : Tensor());
  }
  return out;
}

/// One scan, cut. Inputs are those of the op, then what documents start from.
class Cut {
 public:
  Cut(const ScanInfo& scan, const Vars& inputs, std::shared_ptr<const void> attrs,
      const layers::Stretch& stretch, const layers::ScanCall& call, int ranks, std::string strategy)
      : scan_(scan),
        in_(values_of(inputs)),
        attrs_(std::move(attrs)),
        stretch_(stretch),
        call_(call),
        ranks_(ranks),
        strategy_(std::move(strategy)) {
    const Tensors fresh = values_of(call.fresh);
    in_.insert(in_.end(), fresh.begin(), fresh.end());
    for (const Var& v : inputs) {
      wanted_.push_back(v.requires_grad());
    }
    for (const Var& v : call.fresh) {
      wanted_.push_back(v.requires_grad());
    }
  }
  std::string name() const { return scan_.op->name + " on threads"; }

  Tensors forward() const {
    std::vector<Tensors> parts(static_cast<std::size_t>(ranks_));
    run_ranks(ranks_, [&](Communicator& comm) {
      layers::LocalRunner local;
      SplitRunner runner(comm, local, strategy_);
      parts[static_cast<std::size_t>(comm.rank())] =
          values_of(pass(runner, comm.rank(), leaves(comm.rank())));
    });
    return joined(parts, scan_.op->out, scan_.op->out.size(), false);
  }
  /// Gradients of the inputs for those of the outputs.
  Tensors backward(std::span<const Tensor> dout) const {
    std::vector<Tensors> parts(static_cast<std::size_t>(ranks_));
    run_ranks(ranks_, [&](Communicator& comm) {
      layers::LocalRunner local;
      SplitRunner runner(comm, local, strategy_);
      const Vars in = leaves(comm.rank());
      ag::Tape tape;
      const Vars out = pass(runner, comm.rank(), in);
      Tensors seeds;
      for (std::size_t i = 0; i < out.size(); ++i) {
        const bool sequence = is_sequence(scan_.op->out[i]);
        // Gradients of outgoing states are summed over ranks.
        const bool here = dout[i].defined() && (sequence || comm.rank() == 0);
        seeds.push_back(!here ? Tensor() : sequence ? piece(dout[i], comm.rank()) : dout[i]);
      }
      tape.backward(out, seeds);
      for (const Var& v : in) {
        parts[static_cast<std::size_t>(comm.rank())].push_back(v.defined() ? v.grad() : Tensor());
      }
    });
    return joined(parts, scan_.op->in, in_.size(), true);
  }

 private:
  /// Which piece a rank has, in the order in which the stretch is read.
  int place(int rank) const {
    return stretch_.direction() == layers::Direction::kBackward ? ranks_ - 1 - rank : rank;
  }
  Index begin(int place) const {
    const Index n = ranks_;
    return stretch_.tokens() * place * (place + 1) / (n * (n + 1));
  }
  Tensor piece(const Tensor& x, int rank) const {
    const int at = place(rank);
    return x.slice(1, begin(at) * call_.updates, begin(at + 1) * call_.updates).contiguous();
  }
  Vars leaves(int rank) const {
    Vars in;
    for (std::size_t i = 0; i < in_.size(); ++i) {
      const bool cut = in_[i].defined() && i < scan_.op->in.size() && is_sequence(scan_.op->in[i]);
      const Tensor x = cut ? piece(in_[i], rank) : in_[i];
      in.push_back(!x.defined() ? Var() : wanted_[i] ? Var::leaf(x) : Var(x));
    }
    return in;
  }
  Vars pass(SplitRunner& runner, int rank, const Vars& in) const {
    const auto fresh = in.begin() + std::ssize(scan_.op->in);
    layers::ScanCall call = call_;
    call.fresh.assign(fresh, in.end());
    return runner.run(scan_, Vars(in.begin(), fresh), attrs_,
                      stretch_.piece(begin(place(rank)), begin(place(rank) + 1)), call);
  }
  /// Sequences end to end; others summed over ranks, or those of the first.
  Tensors joined(std::vector<Tensors> parts, const std::vector<ArgSpec>& args, std::size_t count,
                 bool summed) const {
    if (place(0) > 0) {
      std::ranges::reverse(parts);
    }
    Tensors all;
    for (std::size_t i = 0; i < count; ++i) {
      Vars pieces;
      for (const Tensors& p : parts) {
        if (p[i].defined()) {
          pieces.emplace_back(p[i]);
        }
      }
      if (pieces.empty()) {
        all.emplace_back();
      } else if (i < args.size() && is_sequence(args[i])) {
        all.push_back(ag::concat(pieces, 1).value());
      } else {
        all.push_back(pieces[0].value().clone());
        for (std::size_t r = 1; summed && r < pieces.size(); ++r) {
          all.back().add_(pieces[r].value());
        }
      }
    }
    return all;
  }

  const ScanInfo& scan_;
  Tensors in_;
  std::vector<bool> wanted_;
  std::shared_ptr<const void> attrs_;
  layers::Stretch stretch_;
  layers::ScanCall call_;
  int ranks_;
  std::string strategy_;
};

class CutNode final : public ag::NodeFn {
 public:
  explicit CutNode(Cut cut) : cut_(std::move(cut)) {}
  std::string name() const override { return cut_.name(); }
  void backward(std::span<const Tensor> dout, const std::vector<bool>&,
                std::span<Tensor> din) override {
    std::ranges::copy(cut_.backward(dout), din.begin());
  }

 private:
  Cut cut_;
};

}  // namespace

ThreadRanks::ThreadRanks(int ranks, std::string strategy)
    : ranks_(ranks), strategy_(std::move(strategy)) {
  LS_CHECK(ranks > 0, kConfig, "a sequence is split over {} ranks; expected 1 or more", ranks);
}

Vars ThreadRanks::run(const ScanInfo& scan, Vars inputs, std::shared_ptr<const void> attrs,
                      const layers::Stretch& stretch, const layers::ScanCall& call) {
  Vars all = inputs;
  all.insert(all.end(), call.fresh.begin(), call.fresh.end());
  Cut cut(scan, inputs, std::move(attrs), stretch, call, ranks_, strategy_);
  const Tensors out = cut.forward();
  if (!ag::Tape::records(all)) {
    return Vars(out.begin(), out.end());
  }
  return ag::Tape::current()->record(std::make_unique<CutNode>(std::move(cut)), all, out);
}

}  // namespace ls::parallel
