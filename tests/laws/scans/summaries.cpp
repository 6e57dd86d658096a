// What a summary of tokens owes: identity, associative compose, act and its transpose.
#include <utility>

#include "tests/laws/scans/checker.h"
#include "tests/support/stand_in.h"

namespace ls::test::scans {

namespace {

double dot(const Tensor& a, const Tensor& b) {
  LS_CHECK(a.shape() == b.shape(), kShape, "{} where {} was expected", a.describe(), b.describe());
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    sum += x[i] * y[i];
  }
  return sum;
}

}  // namespace

void Checker::summaries() {
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

void Checker::adjoint() {
  for (const Index from : {Index{0}, tokens_ / 2}) {
    const Tensors m = summarize(piece(x_, from, tokens_));
    // States as they arise, so that growing ones have a length.
    const Tensors like = from == 0 ? start_ : states_of(apply(piece(x_, 0, from), start_).out);
    Tensors s, zero;
    for (const Tensor& x : like) {
      s.push_back(random(rng_, x.shape(), x.dtype()));
      zero.push_back(Tensor::zeros(x.shape(), x.dtype()));
    }
    const Tensors moved = family_.act(m, s, attrs());
    Tensors d;
    for (const Tensor& x : moved) {
      d.push_back(random(rng_, x.shape(), x.dtype()));
    }
    const Tensors back = act_adjoint(m, s, d);
    if (!family_.affine) {
      adjoint_of_derivative(m, s, d, back, from);
      continue;
    }
    const Tensors fixed = family_.act(m, zero, attrs());
    double left = 0, right = 0;
    for (std::size_t i = 0; i < s.size(); ++i) {
      left += dot(moved[i], d[i]) - dot(fixed[i], d[i]);
      right += dot(back[i], s[i]);
    }
    same(fmt::format("adjoint (from token {})", from), Tensor::scalar(left, DType::kF64),
         Tensor::scalar(right, DType::kF64));
  }
}

/// Where act is not affine: `back` against the difference of act along random directions, in f64.
void Checker::adjoint_of_derivative(const Tensors& summary, const Tensors& s, const Tensors& d,
                                    const Tensors& back, Index from) {
  if (s[0].dtype() != DType::kF64) {
    return;
  }
  Tensors along;
  double right = 0;
  for (std::size_t i = 0; i < s.size(); ++i) {
    along.push_back(random(rng_, s[i].shape(), s[i].dtype()));
    right += dot(back[i], along[i]);
  }
  const auto moved = [&](double step) {
    Tensors at;
    for (std::size_t i = 0; i < s.size(); ++i) {
      Tensor by = along[i].clone();
      by.mul_(step);
      by.add_(s[i]);
      at.push_back(by);
    }
    const Tensors to = family_.act(summary, at, attrs());
    double sum = 0;
    for (std::size_t i = 0; i < to.size(); ++i) {
      sum += dot(to[i], d[i]);
    }
    return sum;
  };
  constexpr double kStep = 1e-4;
  const auto slope = [&](double step) { return (moved(step) - moved(-step)) / (2 * step); };
  const double left = (4 * slope(kStep) - slope(2 * kStep)) / 3;
  const double allowed = 1e-9 * std::max(1.0, std::abs(right));
  if (!(std::abs(left - right) <= allowed)) {
    fault(
        fmt::format("adjoint (from token {}): the derivative is {:.12g}, the adjoint says {:.12g}",
                    from, left, right));
  }
}

/// What outputs read of the incoming state as a product.
void Checker::products() {
  if (!family_.read_adjoint && !family_.local) {
    return;
  }
  const Run none = apply(x_, zero_);
  const auto by = static_cast<std::size_t>(op_.output_index(family_.read_by));
  Tensor adjoint;
  if (family_.local) {
    const layers::LocalPart part = family_.local(x_, attrs());
    same("local", part.out, none.out);
    same("local (summary)", part.summary, summarize(x_));
    same("finish", layers::finish(family_, part, start_, attrs()), whole_.out);
    Tensor o = layers::read_states(part.reads, start_[0]).to(none.out[by].dtype());
    same("reads", o.add_(none.out[by]), whole_.out[by]);
    adjoint = layers::read_adjoint(part.reads, cotangent_[by], start_[0].size(1));
  } else {
    adjoint = family_.read_adjoint(x_, cotangent_[by], attrs());
  }
  if (!adjoint.defined()) {
    return;
  }
  Tensors d(op_.out.size());
  d[by] = cotangent_[by];
  Run r = whole_;
  derive(r, d);
  same("reads (adjoint)", adjoint, r.din[port_in_[0]]);
}

/// The same bits on another device.
void Checker::devices() {
  StandIn device(5);
  const auto moved = [](const Tensors& ts, Device& to) {
    Tensors out;
    for (const Tensor& t : ts) {
      out.push_back(t.defined() ? t.to(to) : t);
    }
    return out;
  };
  const auto all = [&](Device& to) {
    const Tensors x = moved(x_, to), start = moved(start_, to);
    std::vector<Tensors> out{summarize(x), family_.identity(x, attrs())};
    out.push_back(family_.act(out[0], start, attrs()));
    out.push_back(family_.act_adjoint(out[0], start, out[2], attrs()));
    out.push_back(compose(out[0], out[0]));
    if (family_.forget) {
      Tensors fresh;
      for (const Tensor& s : start) {
        fresh.push_back(s.slice(0, 0, 1));
      }
      out.push_back(family_.forget(x, fresh, attrs()));
    }
    for (Tensors& list : out) {
      list = moved(list, cpu());
    }
    return out;
  };
  const std::vector<Tensors> here = all(cpu()), there = all(device);
  const double kept = std::exchange(tolerance_, 0);
  constexpr const char* kNames[] = {"summarize",   "identity", "act",
                                    "act_adjoint", "compose",  "forget"};
  for (std::size_t i = 0; i < here.size(); ++i) {
    same(fmt::format("devices ({})", kNames[i]), there[i], here[i]);
  }
  tolerance_ = kept;
}

}  // namespace ls::test::scans
