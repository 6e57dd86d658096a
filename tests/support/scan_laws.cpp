#include "tests/support/scan_laws.h"

#include <algorithm>
#include <cmath>

#include "autograd/gradcheck.h"
#include "core/base/rng.h"

namespace ls::test {
namespace {

using layers::Boundary;
using layers::FamilyInfo;
using layers::FamilyKind;
using layers::StatePort;
using layers::Tensors;

bool is_sequence(const ArgSpec& arg) {
  return arg.axes.size() >= 2 && arg.axes[0] == "B" && (arg.axes[1] == "T" || arg.axes[1] == "Tk");
}

Tensor concat(const Tensors& parts, int axis) {
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

Tensor random(Rng& rng, const Shape& shape, DType t) {
  Tensor x = Tensor::empty(shape, DType::kF64);
  double* p = x.data<double>();
  for (Index i = 0; i < x.numel(); ++i) {
    p[i] = rng.normal();
  }
  return x.to(t);
}

double dot(const Tensor& a, const Tensor& b) {
  LS_CHECK(a.shape() == b.shape(), kShape, "{} where {} was expected", a.describe(), b.describe());
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    sum += x[i] * y[i];
  }
  return sum;
}

/// One call, and the gradients of its inputs once they are asked for.
struct Run {
  Tensors in, out, din;
  const void* attrs = nullptr;
};

class Checker {
 public:
  Checker(const FamilyInfo& family, const ScanCase& c, DType t)
      : family_(family),
        op_(*family.op),
        case_(c),
        type_(t),
        rng_(7, "scan laws/" + c.name),
        rows_(family.states[0].part == layers::StatePart::kKeyValue) {
    for (std::size_t i = 0; i < c.in.size(); ++i) {
      Tensor x = c.in[i];
      if (x.defined() && is_float(x.dtype())) {
        x = x.to(op_.in[i].type == ArgSpec::Type::kFloat ? t
                 : op_.in[i].type == ArgSpec::Type::kAcc ? acc_dtype(t)
                                                         : x.dtype());
      }
      if (x.defined() && is_sequence(op_.in[i])) {
        batch_ = x.size(0);
        tokens_ = x.size(1);
      }
      x_.push_back(x);
    }
    for (const StatePort& port : family.states) {
      port_in_.push_back(static_cast<std::size_t>(op_.input_index(port.input)));
      port_out_.push_back(static_cast<std::size_t>(op_.output_index(port.output)));
      given_.push_back(x_[port_in_.back()]);
      x_[port_in_.back()] = Tensor();
    }
    tolerance_ = (t == DType::kF64 ? 2e-13 : 6e-5) * c.slack;
  }

  std::vector<std::string> run() {
    const Run plain = apply(x_, given_);
    for (const std::size_t p : port_out_) {
      const Tensor& s = plain.out[p];
      zero_.push_back(rows_ ? Tensor::empty(s.slice(1, 0, 0).shape(), s.dtype())
                            : Tensor::zeros(s.shape(), s.dtype()));
    }
    start_ = given_[0].defined() ? given_ : zero_;
    for (std::size_t i = 0; i < op_.out.size(); ++i) {
      const Tensor& o = plain.out[i];
      const bool kept = std::count(case_.kept.begin(), case_.kept.end(), op_.out[i].name) > 0;
      cotangent_.push_back(o.defined() && is_float(o.dtype()) && op_.differentiable_out[i] && !kept
                               ? random(rng_, o.shape(), o.dtype())
                               : Tensor());
    }
    whole_ = apply(x_, start_);
    derive(whole_, cotangent_);
    same("zero-state", whole_.out, plain.out);
    reference();
    if (type_ == DType::kF64) {
      derivative();
    }

    if (family_.kind != FamilyKind::kRelay) {
      summaries();
      adjoint();
    }
    forms();
    for (const std::vector<Index>& cuts : cut_lists()) {
      split("split", cuts);
      if (family_.kind != FamilyKind::kRelay) {
        fold(cuts);
      }
    }
    std::vector<Index> each;
    for (Index t = 0; t <= tokens_; ++t) {
      each.push_back(t);
    }
    split("decode", each);
    if (case_.mask) {
      mask(0, 0);
      mask(tokens_ / 3, tokens_ / 2 + 1);
      mask(tokens_ - 1, tokens_);
      mask(tokens_ / 4, tokens_);
    }
    if (family_.boundary == Boundary::kOffsets) {
      packed();
    } else {
      started();
    }
    return std::move(faults_);
  }

 private:
  // ---- running

  const void* attrs() const { return case_.attrs.get(); }

  Run apply(const Tensors& x, const Tensors& states, const void* attrs = nullptr) {
    Run r;
    r.in = x;
    for (std::size_t i = 0; i < states.size(); ++i) {
      r.in[port_in_[i]] = states[i];
    }
    r.attrs = attrs ? attrs : this->attrs();
    r.out = run_forward(op_, r.in, r.attrs);
    return r;
  }

  void derive(Run& r, const Tensors& dout) const {
    Tensors in = r.in, out = r.out;
    std::vector<bool> wanted;
    std::vector<Shape> shapes;
    for (std::size_t i = 0; i < in.size(); ++i) {
      wanted.push_back(in[i].defined() && op_.differentiable[i]);
      shapes.push_back(in[i].defined() ? in[i].shape() : Shape());
      if (!op_.saves_in[i]) {
        in[i] = Tensor();
      }
    }
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (!op_.saves_out[i]) {
        out[i] = Tensor();
      }
    }
    r.din = run_backward(op_, in, out, dout, wanted, shapes, type_, r.attrs);
  }

  Tensors piece(const Tensors& x, Index a, Index b) const {
    Tensors out = x;
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (x[i].defined() && is_sequence(op_.in[i])) {
        out[i] = x[i].slice(1, a, b);
      }
    }
    return out;
  }
  Tensors joined(const Tensors& x, const Tensors& y) const {
    Tensors out = x;
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (x[i].defined() && is_sequence(op_.in[i])) {
        out[i] = concat({x[i], y[i]}, 1);
      }
    }
    return out;
  }
  Tensors states_of(const Tensors& out) const {
    Tensors s;
    for (const std::size_t p : port_out_) {
      s.push_back(out[p]);
    }
    return s;
  }
  /// Cotangents of tokens [a, b) and of the outgoing states (absent: zero).
  Tensors cotangents(Index a, Index b, const Tensors& dstates) const {
    Tensors d(op_.out.size());
    for (std::size_t i = 0; i < d.size(); ++i) {
      if (cotangent_[i].defined() && is_sequence(op_.out[i])) {
        d[i] = cotangent_[i].slice(1, a, b);
      }
    }
    for (std::size_t i = 0; i < dstates.size(); ++i) {
      d[port_out_[i]] = dstates[i];
    }
    return d;
  }
  Tensors summarize(const Tensors& x) const { return family_.summarize(x, attrs()); }
  Tensors compose(const Tensors& a, const Tensors& b) const {
    return family_.compose(a, b, attrs());
  }

  /// The gradient of states shaped like `like`; growing families leave out old rows that no longer
  /// matter.
  Tensors act_adjoint(const Tensors& summary, const Tensors& dstates, const Tensors& like) const {
    Tensors d = family_.act_adjoint(summary, dstates, attrs());
    for (std::size_t i = 0; i < d.size(); ++i) {
      d[i] = d[i].clone();
      if (rows_ && d[i].size(1) < like[i].size(1)) {
        const Tensor old = like[i].slice(1, 0, like[i].size(1) - d[i].size(1));
        d[i] = concat({Tensor::zeros(old.shape(), old.dtype()), d[i]}, 1);
      }
    }
    return d;
  }

  // ---- comparing

  void fault(const std::string& line) { faults_.push_back(line + " [" + case_.name + "]"); }

  void same(const std::string& what, const Tensor& got, const Tensor& want) {
    if (!got.defined() && !want.defined()) {
      return;
    }
    if (!got.defined() || !want.defined() || !(got.shape() == want.shape())) {
      fault(fmt::format("{}: {} instead of {}", what, got.defined() ? got.describe() : "nothing",
                        want.defined() ? want.describe() : "nothing"));
      return;
    }
    const auto x = got.to_vector<double>(), y = want.to_vector<double>();
    double worst = 0, size = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double d = std::abs(x[i] - y[i]);
      if (!(d <= worst)) {
        worst = d;
      }
      if (!(worst <= 1e300)) {
        break;
      }
      size = std::max(size, std::abs(y[i]));
    }
    const double allowed = is_float(want.dtype()) ? tolerance_ * std::max(1.0, size) : 0.0;
    if (!(worst <= allowed)) {
      fault(fmt::format("{}: differs by {:.3g}, allowed {:.3g} ({} of size {:.3g})", what, worst,
                        allowed, want.describe(), size));
    }
  }
  void same(const std::string& what, const Tensors& got, const Tensors& want) {
    if (got.size() != want.size()) {
      fault(fmt::format("{}: {} tensors instead of {}", what, got.size(), want.size()));
      return;
    }
    for (std::size_t i = 0; i < got.size(); ++i) {
      same(fmt::format("{} #{}", what, i), got[i], want[i]);
    }
  }
  void same_call(const std::string& what, const Tensors& out, const Tensors& din) {
    for (std::size_t i = 0; i < op_.out.size(); ++i) {
      same(what + " " + op_.out[i].name, out[i], whole_.out[i]);
    }
    same_gradients(what, din, whole_.din);
  }
  void same_gradients(const std::string& what, const Tensors& din, const Tensors& want) {
    for (std::size_t i = 0; i < op_.in.size(); ++i) {
      same(what + " d" + op_.in[i].name, din[i], want[i]);
    }
  }

  // ---- laws

  std::vector<std::vector<Index>> cut_lists() {
    std::vector<std::vector<Index>> lists;
    const Index t = tokens_;
    lists.push_back({0, 0, std::min<Index>(1, t), t / 2, t / 2, t, t});
    lists.push_back({0, t});
    for (int i = 0; i < 4; ++i) {
      lists.back().push_back(rng_.below(t + 1));
    }
    for (std::vector<Index>& cuts : lists) {
      std::sort(cuts.begin(), cuts.end());
    }
    return lists;
  }

  void reference() {
    const UseReference use;
    Run r = apply(x_, start_);
    derive(r, cotangent_);
    same_call("reference", r.out, r.din);
  }

  void derivative() {
    const ag::GradcheckReport r = ag::gradcheck(op_, whole_.in, case_.attrs, case_.kept,
                                                {.tolerance = 1e-7 * case_.slack, .directions = 1});
    if (!r.passed) {
      fault("derivative: " + r.worst);
    }
  }

  void summaries() {
    const Tensors id = family_.identity(x_, attrs());
    const Tensors all = summarize(x_);
    same("identity (left)", compose(id, all), all);
    same("identity (right)", compose(all, id), all);
    same("identity (act)", family_.act(id, start_, attrs()), start_);
    same("identity (empty stretch)", summarize(piece(x_, 0, 0)), id);
    same("state", family_.act(all, start_, attrs()), states_of(whole_.out));

    const std::vector<Index> cuts{0, 1, tokens_ / 2, tokens_ - 1, tokens_, rng_.below(tokens_ + 1)};
    for (const Index c : cuts) {
      same(fmt::format("summarize (cut {})", c),
           compose(summarize(piece(x_, 0, c)), summarize(piece(x_, c, tokens_))), all);
    }
    const Index i = rng_.below(tokens_ + 1), j = i + rng_.below(tokens_ - i + 1);
    const Tensors a = summarize(piece(x_, 0, i)), b = summarize(piece(x_, i, j)),
                  c = summarize(piece(x_, j, tokens_));
    same("associative", compose(compose(a, b), c), compose(a, compose(b, c)));
    same("state (three pieces)",
         family_.act(c, family_.act(b, family_.act(a, start_, attrs()), attrs()), attrs()),
         states_of(whole_.out));
  }

  void adjoint() {
    for (const Index from : {Index{0}, tokens_ / 2}) {
      const Tensors m = summarize(piece(x_, from, tokens_));
      // States as they arise, so that growing ones have a length.
      const Tensors like = from == 0 ? start_ : states_of(apply(piece(x_, 0, from), start_).out);
      Tensors s, zero;
      for (const Tensor& x : like) {
        s.push_back(random(rng_, x.shape(), x.dtype()));
        zero.push_back(Tensor::zeros(x.shape(), x.dtype()));
      }
      const Tensors moved = family_.act(m, s, attrs()), fixed = family_.act(m, zero, attrs());
      Tensors d;
      for (const Tensor& x : moved) {
        d.push_back(random(rng_, x.shape(), x.dtype()));
      }
      const Tensors back = act_adjoint(m, d, s);
      double left = 0, right = 0;
      for (std::size_t i = 0; i < s.size(); ++i) {
        left += dot(moved[i], d[i]) - dot(fixed[i], d[i]);
        right += dot(back[i], s[i]);
      }
      same(fmt::format("adjoint (from token {})", from), Tensor::scalar(left, DType::kF64),
           Tensor::scalar(right, DType::kF64));
    }
  }

  void forms() {
    struct Way {
      Form form;
      Index chunk;
      std::string name;
    };
    std::vector<Way> ways = {{Form::kRecurrent, 0, "recurrent"}};
    if (family_.has_chunk) {
      for (const Index c : {Index{1}, Index{16}, Index{37}, Index{64}, tokens_}) {
        ways.push_back({Form::kChunk, c, fmt::format("chunk of {}", c)});
      }
      ways.push_back({Form::kChunk, 0, "chunk"});
    }
    if (family_.has_parallel) {
      ways.push_back({Form::kParallel, 0, "parallel"});
    }
    for (const Way& way : ways) {
      const std::shared_ptr<ScanAttrs> attrs = family_.clone_attrs(this->attrs());
      attrs->form = way.form;
      attrs->chunk = way.chunk;
      Run r = apply(x_, start_, attrs.get());
      derive(r, cotangent_);
      same_call("forms (" + way.name + ")", r.out, r.din);
    }
  }

  /// The outputs of neighbouring pieces as one call would give them.
  Tensors assemble_outputs(const std::vector<Run>& runs) const {
    Tensors out(op_.out.size());
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (runs[0].out[i].defined() && is_sequence(op_.out[i])) {
        Tensors parts;
        for (const Run& r : runs) {
          parts.push_back(r.out[i]);
        }
        out[i] = concat(parts, 1);
      }
    }
    for (const std::size_t p : port_out_) {
      out[p] = runs.back().out[p];
    }
    return out;
  }
  /// Sequence gradients end to end, the others summed; those of states from the first piece.
  Tensors assemble_gradients(const std::vector<Run>& runs) const {
    Tensors din(op_.in.size());
    for (std::size_t i = 0; i < din.size(); ++i) {
      if (!runs[0].din[i].defined()) {
        continue;
      }
      if (is_sequence(op_.in[i])) {
        Tensors parts;
        for (const Run& r : runs) {
          parts.push_back(r.din[i]);
        }
        din[i] = concat(parts, 1);
      } else {
        din[i] = runs[0].din[i].clone();
        for (std::size_t r = 1; r < runs.size(); ++r) {
          if (std::find(port_in_.begin(), port_in_.end(), i) == port_in_.end()) {
            din[i].add_(runs[r].din[i]);
          }
        }
      }
    }
    return din;
  }

  std::vector<Run> run_pieces(const std::vector<Index>& cuts) {
    std::vector<Run> runs;
    Tensors states = start_;
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      runs.push_back(apply(piece(x_, cuts[i], cuts[i + 1]), states));
      states = states_of(runs.back().out);
    }
    return runs;
  }

  void split(const std::string& law, const std::vector<Index>& cuts) {
    std::vector<Run> runs = run_pieces(cuts);
    Tensors dstates = states_of(cotangent_);
    for (std::size_t i = runs.size(); i-- > 0;) {
      derive(runs[i], cotangents(cuts[i], cuts[i + 1], dstates));
      dstates.clear();
      for (const std::size_t p : port_in_) {
        dstates.push_back(runs[i].din[p]);
      }
    }
    same_call(law, assemble_outputs(runs), assemble_gradients(runs));
  }

  void fold(const std::vector<Index>& cuts) {
    std::vector<Run> runs;
    std::vector<Tensors> summaries;
    Tensors states = start_;
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      const Tensors x = piece(x_, cuts[i], cuts[i + 1]);
      summaries.push_back(summarize(x));
      runs.push_back(apply(x, states));
      states = family_.act(summaries.back(), states, attrs());
    }
    std::vector<Tensors> lambda(runs.size() + 1);
    lambda.back() = states_of(cotangent_);
    for (std::size_t i = runs.size(); i-- > 0;) {
      derive(runs[i], cotangents(cuts[i], cuts[i + 1], {}));
      Tensors in;
      for (const std::size_t p : port_in_) {
        in.push_back(runs[i].in[p]);
      }
      lambda[i] = act_adjoint(summaries[i], lambda[i + 1], in);
      for (std::size_t p = 0; p < port_in_.size(); ++p) {
        lambda[i][p].add_(runs[i].din[port_in_[p]]);
      }
    }
    for (std::size_t i = 0; i < runs.size(); ++i) {
      derive(runs[i], cotangents(cuts[i], cuts[i + 1], lambda[i + 1]));
      for (std::size_t p = 0; p < port_in_.size(); ++p) {
        same(fmt::format("fold (piece {})", i), lambda[i][p], runs[i].din[port_in_[p]]);
      }
    }
    same_call("fold", assemble_outputs(runs), assemble_gradients(runs));
  }

  void mask(Index a, Index b) {
    const std::string law = fmt::format("mask (tokens {}..{})", a, b);
    Tensors padded;
    for (const Tensor& x : x_) {
      padded.push_back(x.defined() ? x.clone() : Tensor());
    }
    case_.mask(padded, a, b);
    const Tensors rest = joined(piece(x_, 0, a), piece(x_, b, tokens_));
    Tensors dout = cotangent_, drest = cotangent_;
    for (std::size_t i = 0; i < dout.size(); ++i) {
      if (dout[i].defined() && is_sequence(op_.out[i])) {
        drest[i] = concat({dout[i].slice(1, 0, a), dout[i].slice(1, b, tokens_)}, 1);
        dout[i] = dout[i].clone();
        dout[i].slice(1, a, b).zero_();
      }
    }
    Run got = apply(padded, start_), want = apply(rest, start_);
    derive(got, dout);
    derive(want, drest);
    const auto without = [&](const Tensors& all, const std::vector<ArgSpec>& args) {
      Tensors out = all;
      for (std::size_t i = 0; i < all.size(); ++i) {
        if (all[i].defined() && is_sequence(args[i])) {
          out[i] = concat({all[i].slice(1, 0, a), all[i].slice(1, b, tokens_)}, 1);
        }
      }
      return out;
    };
    same(law, without(got.out, op_.out), want.out);
    same_gradients(law, without(got.din, op_.in), want.din);
    if (family_.kind != FamilyKind::kRelay) {
      same(law + " summary", summarize(piece(padded, a, b)), family_.identity(x_, attrs()));
    }
  }

  /// Cuts of row 0 into documents, one of them empty and one of one token.
  std::vector<Index> documents() {
    const Index t = tokens_;
    std::vector<Index> at{0, t / 5, t / 5, t / 5 + std::min<Index>(1, t), rng_.below(t + 1), t};
    std::sort(at.begin(), at.end());
    at.back() = t;
    return at;
  }
  Tensors first_row(const Tensors& x) const {
    Tensors out = x;
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (x[i].defined() && is_sequence(op_.in[i])) {
        out[i] = x[i].slice(0, 0, 1);
      }
    }
    return out;
  }
  Tensors first_row_cotangents(Index a, Index b) const {
    Tensors d(op_.out.size());
    for (std::size_t i = 0; i < d.size(); ++i) {
      if (cotangent_[i].defined() && is_sequence(op_.out[i])) {
        d[i] = cotangent_[i].slice(0, 0, 1).slice(1, a, b);
      }
    }
    return d;
  }

  void packed() {
    const std::vector<Index> at = documents();
    const Tensors x = first_row(x_);
    Tensors first;
    for (const Tensor& s : start_) {
      first.push_back(s.slice(0, 0, 1));
    }
    std::vector<Run> runs;
    std::vector<Tensors> states(port_in_.size()), dstates(port_in_.size());
    for (std::size_t n = 0; n + 1 < at.size(); ++n) {
      // A state that arises: after some tokens of the row.
      const Tensors s = states_of(apply(piece(x, 0, rng_.below(tokens_ + 1)), first).out);
      runs.push_back(apply(piece(x, at[n], at[n + 1]), s));
      Tensors dout = first_row_cotangents(at[n], at[n + 1]);
      for (std::size_t p = 0; p < s.size(); ++p) {
        states[p].push_back(s[p]);
        dstates[p].push_back(random(rng_, s[p].shape(), s[p].dtype()));
        dout[port_out_[p]] = dstates[p].back();
      }
      derive(runs.back(), dout);
    }
    Tensors together = x, all, dout = first_row_cotangents(0, tokens_);
    together[static_cast<std::size_t>(op_.input_index("offsets"))] =
        Tensor::from(std::vector<std::int64_t>(at.begin(), at.end()));
    for (std::size_t p = 0; p < states.size(); ++p) {
      all.push_back(concat(states[p], 0));
      dout[port_out_[p]] = concat(dstates[p], 0);
    }
    Run got = apply(together, all);
    derive(got, dout);
    Tensors out = assemble_outputs(runs), din = assemble_gradients(runs);
    for (std::size_t p = 0; p < states.size(); ++p) {
      Tensors after, before;
      for (const Run& r : runs) {
        after.push_back(r.out[port_out_[p]]);
        before.push_back(r.din[port_in_[p]]);
      }
      out[port_out_[p]] = concat(after, 0);
      din[port_in_[p]] = concat(before, 0);
    }
    same("reset (documents)", got.out, out);
    same_gradients("reset (documents)", got.din, din);

    // Absent states are zero for every document.
    const Run none = apply(together, Tensors(port_in_.size()));
    Tensors zero;
    for (const Tensor& s : all) {
      zero.push_back(Tensor::zeros(s.shape(), s.dtype()));
    }
    same("reset (absent states)", none.out, apply(together, zero).out);
  }

  /// Documents of families whose state keeps every token: `start` hides the earlier ones.
  void started() {
    const std::vector<Index> at = documents();
    const Tensors x = first_row(x_);
    Tensors zero;
    for (const Tensor& s : zero_) {
      zero.push_back(s.slice(0, 0, 1));
    }
    std::vector<Run> runs;
    std::vector<std::int64_t> start;
    for (std::size_t n = 0; n + 1 < at.size(); ++n) {
      runs.push_back(apply(piece(x, at[n], at[n + 1]), zero));
      derive(runs.back(), first_row_cotangents(at[n], at[n + 1]));
      start.resize(static_cast<std::size_t>(at[n + 1]), at[n]);
    }
    const auto boundary = static_cast<std::size_t>(op_.input_index("start"));
    Tensors together = x;
    together[boundary] = Tensor::from(start, {1, tokens_});
    Run got = apply(together, zero);
    derive(got, first_row_cotangents(0, tokens_));
    const Tensors out = assemble_outputs(runs), din = assemble_gradients(runs);
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (is_sequence(op_.out[i])) {
        same("reset (documents)", got.out[i], out[i]);
      }
    }
    for (std::size_t i = 0; i < din.size(); ++i) {
      if (std::find(port_in_.begin(), port_in_.end(), i) == port_in_.end()) {
        same("reset (documents) d" + op_.in[i].name, got.din[i], din[i]);
      }
    }
    // The same documents cut anywhere, the cache carried.
    const Index cut = rng_.below(tokens_ + 1);
    std::vector<Run> pieces;
    Tensors states = zero;
    for (const auto& [a, b] : {std::pair<Index, Index>{0, cut}, {cut, tokens_}}) {
      Tensors p = piece(together, a, b);
      std::vector<std::int64_t> local(start.begin() + a, start.begin() + b);
      for (std::int64_t& s : local) {
        s -= a;
      }
      p[boundary] = Tensor::from(local, {1, b - a});
      pieces.push_back(apply(p, states));
      states = states_of(pieces.back().out);
    }
    same("reset (cut)", assemble_outputs(pieces), got.out);
  }

  const FamilyInfo& family_;
  const OpInfo& op_;
  const ScanCase& case_;
  DType type_;
  Rng rng_;
  bool rows_;  ///< states have a row for each token, none at first
  Index batch_ = 0, tokens_ = 0;
  double tolerance_ = 0;
  Tensors x_;  // without states
  std::vector<std::size_t> port_in_, port_out_;
  Tensors given_, zero_, start_, cotangent_;
  Run whole_;
  std::vector<std::string> faults_;
};

}  // namespace

Registry<ScanCaseMaker>& scan_cases() {
  static auto* const registry = new Registry<ScanCaseMaker>("scan case");
  return *registry;
}

std::vector<std::string> check_scan(const FamilyInfo& family, const ScanCase& c, DType t) {
  try {
    return Checker(family, c, t).run();
  } catch (const std::exception& e) {
    return {fmt::format("exception: {} [{}]", e.what(), c.name)};
  }
}

}  // namespace ls::test
