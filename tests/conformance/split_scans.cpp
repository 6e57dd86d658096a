// Every registered scan, its sequence split over ranks (threads), gives the outputs and gradients
// of one rank: with documents, several updates a token, carried and fresh states, empty ranks,
// ranks without a gradient, read forward and backward.
#include <doctest/doctest.h>

#include <cmath>
#include <mutex>
#include <set>

#include "autograd/tape.h"
#include "core/base/rng.h"
#include "core/comm/thread_comm.h"
#include "parallel/sequence/runner.h"
#include "tests/support/scan_laws.h"

using namespace ls;
using namespace ls::layers;
using namespace ls::test;

namespace {

using Vars = std::vector<ag::Var>;

Tensor draw(Rng& rng, const Shape& shape, DType t) {
  Tensor x = Tensor::empty(shape, DType::kF64);
  for (Index i = 0; i < x.numel(); ++i) {
    x.data<double>()[i] = rng.normal();
  }
  return x.to(t);
}

Tensor joined(const Tensors& parts, int axis) {
  Shape shape = parts[0].shape();
  shape[axis] = 0;
  for (const Tensor& p : parts) {
    shape[axis] += p.size(axis);
  }
  Tensor out = Tensor::empty(shape, parts[0].dtype());
  Index at = 0;
  for (const Tensor& p : parts) {
    out.slice(axis, at, at + p.size(axis)).copy_(p);
    at += p.size(axis);
  }
  return out;
}

/// Outputs of a call and the gradients of its inputs, then of what documents start from.
struct Called {
  Tensors out, din;
};

/// The tokens of x [B,nT,...] from the last to the first, n updates of each in their order.
Tensor turned(const Tensor& x, Index n) {
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  for (Index t = 0; t < x.size(1); t += n) {
    out.slice(1, x.size(1) - t - n, x.size(1) - t).copy_(x.slice(1, t, t + n));
  }
  return out;
}

/// One scan case, on one rank and on several.
class SplitCase {
 public:
  /// `updates`: tokens of the case for each token of the stretch; those left over are left out.
  SplitCase(const ScanInfo& scan, const ScanCase& c, bool documents, Index updates, bool backward)
      : scan_(scan),
        op_(*scan.op),
        case_(c),
        rng_(11, "split/" + c.name),
        updates_(updates),
        backward_(backward) {
    for (std::size_t i = 0; i < c.in.size(); ++i) {
      x_.push_back(c.in[i]);
      if (is_sequence(op_.in[i]) && c.in[i].defined()) {
        rows_ = c.in[i].size(0);
        tokens_ = c.in[i].size(1) / updates;
        x_.back() = c.in[i].slice(1, 0, tokens_ * updates).contiguous();
      }
    }
    const StatePort& port = scan.states[0];
    const Tensor& s = x_[static_cast<std::size_t>(op_.input_index(port.input))];
    const bool cache = port.part == StatePart::kKeyValue;
    (backward ? place_.left : place_.seen)
        .assign(static_cast<std::size_t>(rows_), s.defined() ? (cache ? s.size(1) : 5) : 0);
    if (documents) {
      draw_documents();
    }
    plain_ = whole(Tensors(op_.out.size()), {}).out;
    for (const StatePort& p : scan.states) {
      const Tensor& out = plain_[static_cast<std::size_t>(op_.output_index(p.output))];
      fresh_.push_back(documents && !cache ? draw(rng_, out.slice(0, 0, 1).shape(), out.dtype())
                                           : Tensor());
    }
    for (std::size_t i = 0; i < op_.out.size(); ++i) {
      const bool kept = std::count(c.kept.begin(), c.kept.end(), op_.out[i].name) > 0;
      const bool wanted =
          plain_[i].defined() && is_float(plain_[i].dtype()) && op_.out[i].differentiable && !kept;
      cotangent_.push_back(wanted ? draw(rng_, plain_[i].shape(), plain_[i].dtype()) : Tensor());
    }
  }

  /// What is wrong with a split, or "".
  std::string differs(int ranks, const std::string& strategy, bool silent) {
    const std::vector<Index> cuts = draw_cuts(ranks);
    Tensors dout = cotangent_;
    if (silent) {  // only the last rank has a gradient
      for (std::size_t i = 0; i < dout.size(); ++i) {
        if (dout[i].defined()) {
          dout[i] = dout[i].clone();
          is_sequence(op_.out[i]) ? tokens(dout[i], 0, cuts[cuts.size() - 2]).zero_()
                                  : dout[i].zero_();
        }
      }
    }
    const Called want = whole(dout, fresh_), got = split(dout, cuts, strategy, silent);
    std::string faults;
    for (std::size_t i = 0; i < want.out.size(); ++i) {
      faults += compared(op_.out[i].name, got.out[i], want.out[i]);
    }
    for (std::size_t i = 0; i < want.din.size(); ++i) {
      const std::string name = i < op_.in.size() ? op_.in[i].name : "fresh state";
      faults += compared("d" + name, got.din[i], want.din[i]);
    }
    return faults;
  }

 private:
  Tensor tokens(const Tensor& x, Index a, Index b) const {
    return x.slice(1, a * updates_, b * updates_);
  }
  void draw_documents() {
    for (Index r = 0; r < rows_; ++r) {
      std::set<Index> starts;
      for (Index i = rng_.below(4); i > 0 && tokens_ > 0; --i) {
        starts.insert(rng_.below(tokens_));
      }
      place_.documents.emplace_back(starts.begin(), starts.end());
    }
  }
  std::vector<Index> draw_cuts(int ranks) {
    std::vector<Index> cuts{0, tokens_};
    for (int i = 1; i < ranks; ++i) {  // of four, one is empty, in turns the first
      const bool empty = i == 2;
      cuts.push_back(empty ? (rng_.below(2) > 0 ? 0 : cuts.back()) : rng_.below(tokens_ + 1));
    }
    std::sort(cuts.begin(), cuts.end());
    return cuts;
  }
  /// Tokens [a, b) as the scan reads them, and back.
  Tensor read(const Tensor& x, Index a, Index b) const {
    const Tensor piece = tokens(x, a, b).contiguous();
    return backward_ ? turned(piece, updates_) : piece;
  }
  Tensor in_time(const Tensor& x) const {
    return backward_ && x.defined() ? turned(x, updates_) : x;
  }
  /// Runs tokens [a, b) by `runner` and derives it; states out are dropped from `seeds` unless
  /// `last`.
  Called call(SeqRunner& runner, Index a, Index b, const Tensors& dout, const Tensors& fresh,
              bool states, bool silent) const {
    ag::Tape tape;
    Vars in;
    for (std::size_t i = 0; i < x_.size(); ++i) {
      Tensor x = x_[i];
      if (x.defined() && is_sequence(op_.in[i])) {
        x = read(x, a, b);
      }
      in.push_back(!x.defined()               ? ag::Var()
                   : op_.in[i].differentiable ? ag::Var::leaf(x)
                                              : ag::Var(x));
    }
    // Where there are no tokens, a context cannot tell how many updates one has.
    ScanCall how{.slot = "scan", .updates = b > a ? updates_ : 1, .fresh = {}};
    for (const Tensor& f : fresh) {
      how.fresh.push_back(f.defined() ? ag::Var::leaf(f) : ag::Var());
    }
    const Stretch stretch = Stretch(rows_, tokens_, place_).piece(a, b);
    const Vars out =
        runner.run(scan_, in, case_.attrs, backward_ ? stretch.turned() : stretch, how);
    Tensors seeds;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const bool sequence = is_sequence(op_.out[i]);
      seeds.push_back(!dout[i].defined() || silent || (!sequence && !states) ? Tensor()
                      : sequence                                             ? read(dout[i], a, b)
                                                                             : dout[i]);
    }
    tape.backward(out, seeds);
    Called c;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const Tensor x = out[i].defined() ? out[i].value() : Tensor();
      c.out.push_back(is_sequence(op_.out[i]) ? in_time(x) : x);
    }
    for (std::size_t i = 0; i < in.size(); ++i) {
      const Tensor d = in[i].defined() ? in[i].grad() : Tensor();
      c.din.push_back(is_sequence(op_.in[i]) ? in_time(d) : d);
    }
    for (const ag::Var& v : how.fresh) {
      c.din.push_back(v.defined() ? v.grad() : Tensor());
    }
    return c;
  }
  Called whole(const Tensors& dout, const Tensors& fresh) const {
    LocalRunner local;
    return call(local, 0, tokens_, dout, fresh, true, false);
  }
  Called split(const Tensors& dout, const std::vector<Index>& cuts, const std::string& strategy,
               bool silent) const {
    const int ranks = static_cast<int>(cuts.size()) - 1;
    std::vector<Called> parts(static_cast<std::size_t>(ranks));
    run_ranks(ranks, [&](Communicator& comm) {
      LocalRunner local;
      parallel::SplitRunner runner(comm, local, strategy);
      const auto r = static_cast<std::size_t>(comm.rank());
      const bool last = comm.rank() == ranks - 1;
      parts[r] =
          call(runner, cuts[r], cuts[r + 1], dout, fresh_, comm.rank() == 0, silent && !last);
    });
    Called all = parts[0];
    for (std::size_t i = 0; i < all.out.size(); ++i) {
      if (all.out[i].defined() && is_sequence(op_.out[i])) {
        Tensors pieces;
        for (const Called& p : parts) {
          pieces.push_back(p.out[i]);
        }
        all.out[i] = joined(pieces, 1);
      }
    }
    for (std::size_t i = 0; i < all.din.size(); ++i) {
      assemble(parts, i, all.din[i]);
    }
    return all;
  }
  /// Gradients of a sequence end to end, others summed.
  void assemble(const std::vector<Called>& parts, std::size_t i, Tensor& to) const {
    const bool sequence = i < op_.in.size() && is_sequence(op_.in[i]);
    Tensors pieces;
    for (const Called& p : parts) {
      if (p.din[i].defined()) {
        pieces.push_back(p.din[i]);
      }
    }
    if (pieces.empty()) {
      return;
    }
    if (sequence) {
      to = joined(pieces, 1);
      return;
    }
    to = pieces[0].clone();
    for (std::size_t k = 1; k < pieces.size(); ++k) {
      to.add_(pieces[k]);
    }
  }
  std::string compared(const std::string& name, const Tensor& got, const Tensor& want) const {
    const auto zero = [](const Tensor& t) {
      double most = 0;
      for (const double v : t.to_vector<double>()) {
        most = std::max(most, std::abs(v));
      }
      return most == 0;
    };
    if (!got.defined() || !want.defined()) {
      const bool same = (!got.defined() || zero(got)) && (!want.defined() || zero(want));
      return same ? "" : " " + name + " is missing";
    }
    if (!(got.shape() == want.shape())) {
      return fmt::format(" {} has shape {}, not {}", name, got.shape().str(), want.shape().str());
    }
    const auto x = got.to_vector<double>(), y = want.to_vector<double>();
    double worst = 0, size = 1;
    for (std::size_t i = 0; i < x.size(); ++i) {
      worst = std::abs(x[i] - y[i]) <= worst ? worst : std::abs(x[i] - y[i]);
      size = std::max(size, std::abs(y[i]));
    }
    return worst <= 1e-12 * case_.slack * size ? ""
                                               : fmt::format(" {} differs by {:.2g}", name, worst);
  }

  const ScanInfo& scan_;
  const OpInfo& op_;
  const ScanCase& case_;
  Rng rng_;
  Index updates_, rows_ = 0, tokens_ = 0;
  bool backward_;
  StretchPlace place_;
  Tensors x_, plain_, fresh_, cotangent_;
};

/// A gather that is wrong in one way.
class WrongExchange final : public parallel::Exchange {
 public:
  enum class Fault : std::uint8_t { kSkipsNeighbor, kWrongOrder };
  WrongExchange(parallel::RankScan& scan, Communicator& comm, Fault fault)
      : scan_(scan),
        rank_(static_cast<std::size_t>(comm.rank())),
        fault_(fault),
        all_(parallel::begin_gather(comm, scan.summary(), scan.device())) {}
  Tensors finish() override {
    const std::vector<Tensors> all = all_.wait();
    Tensors state = scan_.initial();
    for (std::size_t r = 0; r < rank_; ++r) {
      const std::size_t of = fault_ == Fault::kWrongOrder ? rank_ - 1 - r : r;
      if (fault_ != Fault::kSkipsNeighbor || r + 1 < rank_) {
        state = scan_.act(all[of], state);
      }
    }
    return scan_.run(state);
  }

 private:
  parallel::RankScan& scan_;
  std::size_t rank_;
  Fault fault_;
  parallel::PendingLists all_;
};

template <WrongExchange::Fault kFault>
class Wrong : public parallel::HandingStrategy {
 public:
  bool serves(const ScanInfo& scan, Index, const parallel::RankExtents&) const override {
    return parallel::has_fixed_states(scan);
  }
  parallel::Payload payload(const parallel::SplitSizes&) const override { return {}; }
  std::unique_ptr<parallel::Exchange> begin(parallel::RankScan& scan,
                                            Communicator& comm) const override {
    return std::make_unique<WrongExchange>(scan, comm, kFault);
  }
};
using WrongSkips = Wrong<WrongExchange::Fault::kSkipsNeighbor>;
using WrongTurns = Wrong<WrongExchange::Fault::kWrongOrder>;
LS_STRATEGY(WrongSkips, "wrong_skips_neighbor", "deliberately wrong");
LS_STRATEGY(WrongTurns, "wrong_order", "deliberately wrong");

/// On 1, 2 and 4 ranks, with and without silent ones; or on some of these.
void check(SplitCase& split, const std::string& what, const std::string& strategy, bool few) {
  for (const int ranks : {1, 2, 4}) {
    for (const bool silent : {false, true}) {
      if (!few || (ranks > 1 && !silent)) {
        const std::string faults = split.differs(ranks, strategy, silent);
        CHECK_MESSAGE(faults.empty(), what << ", " << ranks << " ranks, " << strategy
                                           << (silent ? ", silent" : "") << ":" << faults);
      }
    }
  }
}

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("scans split over ranks") {
    for (const std::string& name : scan_registry().names()) {
      SUBCASE(name.c_str()) {
        const ScanInfo& scan = *scan_registry().at(name);
        const std::vector<ScanCase> cases = (*scan_cases().find(name))();
        std::vector<std::string> strategies{"auto"};
        for (const std::string& s : parallel::strategy_registry().names()) {
          const bool right = !s.starts_with("wrong_");
          if (right && parallel::strategy_registry().at(s)->serves(scan, 0, {})) {  // any lengths
            strategies.push_back(s);
          }
        }
        const std::vector<Index> updates =
            scan.boundary == Boundary::kOffsets ? std::vector<Index>{1, 2} : std::vector<Index>{1};
        for (const ScanCase& c : cases) {
          for (const Index n : updates) {
            for (const bool documents : {false, true}) {
              for (const bool backward : {false, true}) {
                SplitCase split(scan, c, documents, n, backward);
                const std::string what =
                    fmt::format("{}{}{}, {} updates", c.name, documents ? ", documents" : "",
                                backward ? ", backward" : "", n);
                for (const std::string& strategy : strategies) {
                  check(split, what, strategy, n > 1 || backward);
                }
              }
            }
          }
        }
      }
    }
  }

  TEST_CASE("strategies that are wrong are caught") {
    for (const char* const strategy : {"wrong_skips_neighbor", "wrong_order"}) {
      for (const char* const name : {"decayed_linear", "delta_rule", "mlstm"}) {
        CAPTURE(strategy);
        CAPTURE(name);
        const std::vector<ScanCase> cases = (*scan_cases().find(name))();
        bool caught = false;
        for (const ScanCase& c : cases) {
          SplitCase split(*scan_registry().at(name), c, false, 1, false);
          caught = caught || !split.differs(4, strategy, false).empty();
        }
        CHECK(caught);
      }
    }
  }
}
