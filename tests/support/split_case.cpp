#include "tests/support/split_case.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "autograd/tape.h"
#include "core/comm/thread_comm.h"
#include "parallel/sequence/runner.h"

namespace ls::test {
namespace {

using layers::is_sequence;
using layers::Stretch;
using Vars = std::vector<ag::Var>;
using Tensors = std::vector<Tensor>;

Tensor draw(Rng& rng, const Shape& shape, DType t) {
  Tensor x = Tensor::empty(shape, DType::kF64);
  for (Index i = 0; i < x.numel(); ++i) {
    x.data<double>()[i] = rng.normal();
  }
  return x.to(t);
}

Tensor end_to_end(const Tensors& parts) {
  Shape shape = parts[0].shape();
  shape[1] = 0;
  for (const Tensor& p : parts) {
    shape[1] += p.size(1);
  }
  Tensor out = Tensor::empty(shape, parts[0].dtype());
  Index at = 0;
  for (const Tensor& p : parts) {
    out.slice(1, at, at + p.size(1)).copy_(p);
    at += p.size(1);
  }
  return out;
}

/// The tokens of x [B,nT,...] from the last to the first, n updates of each in their order.
Tensor turned(const Tensor& x, Index n) {
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  for (Index t = 0; t < x.size(1); t += n) {
    out.slice(1, x.size(1) - t - n, x.size(1) - t).copy_(x.slice(1, t, t + n));
  }
  return out;
}

Tensors in_type(const Tensors& list, DType t) {
  Tensors out;
  for (const Tensor& x : list) {
    out.push_back(x.defined() && is_float(x.dtype()) ? x.to(t) : x);
  }
  return out;
}

double largest(const Tensor& t) {
  double most = 0;
  for (const double v : t.to(DType::kF64).to_vector<double>()) {
    most = std::abs(v) <= most ? most : std::abs(v);  // keeps what is no number
  }
  return most;
}

double distance(const Tensor& a, const Tensor& b) {
  const auto x = a.to(DType::kF64).to_vector<double>(), y = b.to(DType::kF64).to_vector<double>();
  double most = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    most = std::abs(x[i] - y[i]) <= most ? most : std::abs(x[i] - y[i]);
  }
  return most;
}

double rounding(DType t) {
  return t == DType::kF64 ? 0x1p-53 : t == DType::kF32 ? 0x1p-24 : 0x1p-8;
}

}  // namespace

std::vector<SplitCase::Called> SplitCase::on_threads(
    int ranks, const std::function<Called(Communicator&)>& body) {
  std::vector<Called> parts(static_cast<std::size_t>(ranks));
  run_ranks(ranks,
            [&](Communicator& comm) { parts[static_cast<std::size_t>(comm.rank())] = body(comm); });
  return parts;
}

SplitCase::SplitCase(const layers::ScanInfo& scan, const ScanCase& c, const SplitWay& way)
    : scan_(scan), op_(*scan.op), case_(c), way_(way), rng_(11, "split/" + c.name) {
  for (std::size_t i = 0; i < c.in.size(); ++i) {
    Tensor x = c.in[i];
    if (is_sequence(op_.in[i]) && x.defined()) {
      rows_ = x.size(0);
      tokens_ = x.size(1) / way.updates;
      x = x.slice(1, 0, tokens_ * way.updates).contiguous();
    }
    own_.x.push_back(x.defined() && is_float(x.dtype()) ? x.to(op_.in[i].dtype(way.type)) : x);
  }
  exact_.x = in_type(own_.x, DType::kF64);
  const layers::StatePort& port = scan.states[0];
  const Tensor& s = own_.x[static_cast<std::size_t>(op_.input_index(port.input))];
  const bool cache = port.part == layers::StatePart::kKeyValue;
  (way.backward ? place_.left : place_.seen)
      .assign(static_cast<std::size_t>(rows_), s.defined() ? (cache ? s.size(1) : 5) : 0);
  place_documents();
  const Tensors plain = whole(own_, Tensors(op_.out.size())).out;
  for (const layers::StatePort& p : scan.states) {
    const Tensor& out = plain[static_cast<std::size_t>(op_.output_index(p.output))];
    own_.fresh.push_back(way.fresh && way.documents != Documents::kNone && !cache
                             ? draw(rng_, out.slice(0, 0, 1).shape(), out.dtype())
                             : Tensor());
  }
  exact_.fresh = in_type(own_.fresh, DType::kF64);
  for (std::size_t i = 0; i < op_.out.size(); ++i) {
    const bool kept = std::count(c.kept.begin(), c.kept.end(), op_.out[i].name) > 0;
    const bool wanted =
        plain[i].defined() && is_float(plain[i].dtype()) && op_.out[i].differentiable && !kept;
    cotangent_.push_back(wanted ? draw(rng_, plain[i].shape(), plain[i].dtype()) : Tensor());
  }
}

Tensor SplitCase::tokens(const Tensor& x, Index a, Index b) const {
  return x.slice(1, a * way_.updates, b * way_.updates);
}

void SplitCase::place_documents() {
  for (Index r = 0; r < rows_ && way_.documents != Documents::kNone; ++r) {
    std::set<Index> starts;
    const auto add = [&](Index t) {
      if (t >= 0 && t < tokens_) {
        starts.insert(t);
      }
    };
    if (way_.documents == Documents::kSome) {
      for (Index i = rng_.below(4); i > 0 && tokens_ > 0; --i) {
        add(rng_.below(tokens_));
      }
    } else if (way_.documents == Documents::kAtCuts) {
      for (Index piece = 1; piece < 4; ++piece) {
        add(tokens_ * piece / 4 + (piece + r) % 3 - 1);
      }
    } else {
      for (Index t = tokens_ / 4; t < tokens_ / 2; ++t) {
        add(t);
      }
    }
    place_.documents.emplace_back(starts.begin(), starts.end());
  }
}

std::vector<Index> SplitCase::cut(int ranks, Cuts how) {
  std::vector<Index> cuts{0, tokens_};
  for (int i = 1; i < ranks; ++i) {
    if (how == Cuts::kRandom) {
      cuts.push_back(i == 2 ? (rng_.below(2) > 0 ? 0 : cuts.back()) : rng_.below(tokens_ + 1));
    } else {
      const int of = how == Cuts::kLastEmpty ? ranks - 1 : ranks;
      cuts.push_back(how == Cuts::kFirstAll ? tokens_ : tokens_ * i / of);
    }
  }
  std::sort(cuts.begin(), cuts.end());
  return cuts;
}

Tensors SplitCase::seeds(Gradients gradients, const std::vector<Index>& cuts) const {
  Tensors dout = cotangent_;
  if (gradients == Gradients::kAll) {
    return dout;
  }
  const bool rank = gradients == Gradients::kLastRank;
  const Index from = rank ? cuts[cuts.size() - 2] : std::max<Index>(tokens_ - 1, 0);
  for (std::size_t i = 0; i < dout.size(); ++i) {
    if (dout[i].defined()) {
      dout[i] = dout[i].clone();
      is_sequence(op_.out[i]) ? tokens(dout[i], 0, from).zero_() : dout[i].zero_();
    }
  }
  return dout;
}

std::string SplitCase::differs(int ranks, const std::string& strategy, Gradients gradients,
                               Cuts how, const Ranks& run) {
  const std::vector<Index> cuts = cut(ranks, how);
  const Tensors dout = seeds(gradients, cuts);
  const bool silent = gradients == Gradients::kLastRank;
  const Called exact = whole(exact_, in_type(dout, DType::kF64)),
               one = way_.type == DType::kF64 ? exact : whole(own_, dout),
               got = joined(run(ranks, [&](Communicator&comm) {
                 layers::LocalRunner local;
                 parallel::SplitRunner runner(comm, local, strategy);
                 const auto r = static_cast<std::size_t>(comm.rank());
                 return call(runner, own_, cuts[r], cuts[r + 1], dout, r == 0,
                             silent && comm.rank() < ranks - 1);
               }));
  std::string faults;
  for (std::size_t i = 0; i < one.out.size(); ++i) {
    faults += compared(op_.out[i].name, got.out[i], one.out[i], exact.out[i]);
  }
  for (std::size_t i = 0; i < one.din.size(); ++i) {
    const std::string name = i < op_.in.size() ? op_.in[i].name : "fresh state";
    faults += compared("d" + name, got.din[i], one.din[i], exact.din[i]);
  }
  return faults;
}

/// Tokens [a, b) as the scan reads them, and back.
Tensor SplitCase::read(const Tensor& x, Index a, Index b) const {
  const Tensor piece = tokens(x, a, b).contiguous();
  return way_.backward ? turned(piece, way_.updates) : piece;
}
Tensor SplitCase::in_time(const Tensor& x) const {
  return way_.backward && x.defined() ? turned(x, way_.updates) : x;
}

/// Runs tokens [a, b) by `runner` and derives it; states out are dropped from `dout` unless
/// `states`.
SplitCase::Called SplitCase::call(layers::SeqRunner& runner, const Numbers& numbers, Index a,
                                  Index b, const Tensors& dout, bool states, bool silent) const {
  ag::Tape tape;
  Vars in;
  for (std::size_t i = 0; i < numbers.x.size(); ++i) {
    Tensor x = numbers.x[i];
    if (x.defined() && is_sequence(op_.in[i])) {
      x = read(x, a, b);
    }
    in.push_back(!x.defined()               ? ag::Var()
                 : op_.in[i].differentiable ? ag::Var::leaf(x)
                                            : ag::Var(x));
  }
  // Where there are no tokens, a context cannot tell how many updates one has.
  layers::ScanCall how{.slot = "scan", .updates = b > a ? way_.updates : 1, .fresh = {}};
  for (const Tensor& f : numbers.fresh) {
    how.fresh.push_back(f.defined() ? ag::Var::leaf(f) : ag::Var());
  }
  const Stretch stretch = Stretch(rows_, tokens_, place_).piece(a, b);
  const Vars out =
      runner.run(scan_, in, case_.attrs, way_.backward ? stretch.turned() : stretch, how);
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

SplitCase::Called SplitCase::whole(const Numbers& numbers, const Tensors& dout) const {
  layers::LocalRunner local;
  return call(local, numbers, 0, tokens_, dout, true, false);
}

/// Sequences end to end; outgoing states of the first rank, other gradients summed.
SplitCase::Called SplitCase::joined(const std::vector<Called>& parts) const {
  const auto all_of = [&](std::size_t i, Tensors Called::*of) {
    Tensors pieces;
    for (const Called& p : parts) {
      if ((p.*of)[i].defined()) {
        pieces.push_back((p.*of)[i]);
      }
    }
    return pieces;
  };
  Called all = parts[0];
  for (std::size_t i = 0; i < all.out.size(); ++i) {
    if (all.out[i].defined() && is_sequence(op_.out[i])) {
      all.out[i] = end_to_end(all_of(i, &Called::out));
    }
  }
  for (std::size_t i = 0; i < all.din.size(); ++i) {
    const Tensors pieces = all_of(i, &Called::din);
    if (pieces.empty()) {
      continue;
    }
    if (i < op_.in.size() && is_sequence(op_.in[i])) {
      all.din[i] = end_to_end(pieces);
      continue;
    }
    all.din[i] = pieces[0].clone();
    for (std::size_t k = 1; k < pieces.size(); ++k) {
      all.din[i].add_(pieces[k]);
    }
  }
  return all;
}

std::string SplitCase::compared(const std::string& name, const Tensor& got, const Tensor& one,
                                const Tensor& exact) const {
  if (!got.defined() || !one.defined()) {
    const bool same =
        (!got.defined() || largest(got) == 0) && (!one.defined() || largest(one) == 0);
    return same ? "" : " " + name + " is missing";
  }
  if (!(got.shape() == one.shape()) || got.dtype() != one.dtype()) {
    return fmt::format(" {} is {}, not {}", name, got.describe(), one.describe());
  }
  const double size = std::max(1.0, largest(exact)), worst = distance(got, exact);
  const double allowed =
      way_.type == DType::kF64
          ? 1e-12 * case_.slack * size
          : 4 * (distance(one, exact) + rounding(way_.type) * case_.slack * size);
  return worst <= allowed
             ? ""
             : fmt::format(" {} differs by {:.2g} where {:.2g} is allowed", name, worst, allowed);
}

}  // namespace ls::test
