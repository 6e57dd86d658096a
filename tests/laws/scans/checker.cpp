#include "tests/laws/scans/checker.h"

#include <algorithm>
#include <cmath>

namespace ls::test::scans {

using layers::Boundary;
using layers::FamilyKind;
using layers::StatePort;

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

Checker::Checker(const ScanInfo& family, const ScanCase& c, DType t)
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

std::vector<std::string> Checker::run() {
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
    cotangent_.push_back(o.defined() && is_float(o.dtype()) && op_.out[i].differentiable && !kept
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
    products();
    devices();
  }
  forms();
  traits();
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
    forget();
  } else {
    started();
  }
  return std::move(faults_);
}

Run Checker::apply(const Tensors& x, const Tensors& states, const void* attrs) {
  Run r;
  r.in = x;
  for (std::size_t i = 0; i < states.size(); ++i) {
    r.in[port_in_[i]] = states[i];
  }
  r.attrs = attrs ? attrs : this->attrs();
  r.out = run_forward(op_, r.in, r.attrs);
  return r;
}

void Checker::derive(Run& r, const Tensors& dout) const {
  Tensors in = r.in, out = r.out;
  std::vector<bool> wanted;
  const std::vector<ShapeOf> shapes = shapes_of(in);
  for (std::size_t i = 0; i < in.size(); ++i) {
    wanted.push_back(in[i].defined() && op_.in[i].differentiable);
    if (!op_.in[i].saved) {
      in[i] = Tensor();
    }
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (!op_.out[i].saved) {
      out[i] = Tensor();
    }
  }
  r.din = run_backward(op_, in, out, dout, wanted, shapes, type_, r.attrs);
}

Tensors Checker::piece(const Tensors& x, Index a, Index b) const {
  Tensors out = x;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (x[i].defined() && is_sequence(op_.in[i])) {
      out[i] = x[i].slice(1, a, b);
    }
  }
  return out;
}

Tensors Checker::joined(const Tensors& x, const Tensors& y) const {
  Tensors out = x;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (x[i].defined() && is_sequence(op_.in[i])) {
      out[i] = concat({x[i], y[i]}, 1);
    }
  }
  return out;
}

Tensors Checker::states_of(const Tensors& out) const {
  Tensors s;
  for (const std::size_t p : port_out_) {
    s.push_back(out[p]);
  }
  return s;
}

Tensors Checker::cotangents(Index a, Index b, const Tensors& dstates) const {
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

Tensors Checker::compose(const Tensors& a, const Tensors& b) const {
  return family_.compose(a, b, attrs());
}

Tensors Checker::act_adjoint(const Tensors& summary, const Tensors& states,
                             const Tensors& dstates) const {
  Tensors d = family_.act_adjoint(summary, states, dstates, attrs());
  for (std::size_t i = 0; i < d.size(); ++i) {
    d[i] = d[i].clone();
    if (rows_ && d[i].size(1) < states[i].size(1)) {
      const Tensor old = states[i].slice(1, 0, states[i].size(1) - d[i].size(1));
      d[i] = concat({Tensor::zeros(old.shape(), old.dtype()), d[i]}, 1);
    }
  }
  return d;
}

void Checker::same(const std::string& what, const Tensor& got, const Tensor& want) {
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

void Checker::same(const std::string& what, const Tensors& got, const Tensors& want) {
  if (got.size() != want.size()) {
    fault(fmt::format("{}: {} tensors instead of {}", what, got.size(), want.size()));
    return;
  }
  for (std::size_t i = 0; i < got.size(); ++i) {
    same(fmt::format("{} #{}", what, i), got[i], want[i]);
  }
}

void Checker::same_call(const std::string& what, const Tensors& out, const Tensors& din) {
  for (std::size_t i = 0; i < op_.out.size(); ++i) {
    same(what + " " + op_.out[i].name, out[i], whole_.out[i]);
  }
  same_gradients(what, din, whole_.din);
}

void Checker::same_gradients(const std::string& what, const Tensors& din, const Tensors& want) {
  for (std::size_t i = 0; i < op_.in.size(); ++i) {
    same(what + " d" + op_.in[i].name, din[i], want[i]);
  }
}

Tensors Checker::assemble_outputs(const std::vector<Run>& runs) const {
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

Tensors Checker::assemble_gradients(const std::vector<Run>& runs) const {
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

}  // namespace ls::test::scans

namespace ls::test {

Registry<ScanCaseMaker>& scan_cases() {
  static auto* const registry = new Registry<ScanCaseMaker>("scan case");
  return *registry;
}

std::vector<std::string> check_scan(const layers::ScanInfo& family, const ScanCase& c, DType t) {
  try {
    return scans::Checker(family, c, t).run();
  } catch (const std::exception& e) {
    return {fmt::format("exception: {} [{}]", e.what(), c.name)};
  }
}

}  // namespace ls::test
