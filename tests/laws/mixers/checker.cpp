#include "tests/laws/mixers/checker.h"

#include <algorithm>
#include <cmath>
#include <list>
#include <numeric>

#include "autograd/tape.h"
#include "core/base/rng.h"

namespace ls::test::mixers {

namespace {

/// Infinite where a value is no number.
double largest_difference(const std::vector<double>& x, const std::vector<double>& y) {
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double d = std::abs(x[i] - y[i]);
    worst = std::isnan(d) ? INFINITY : std::max(worst, d);
  }
  return worst;
}

Tensor ids(Index first, Index tokens) {
  std::vector<std::int64_t> v(static_cast<std::size_t>(kRows * tokens));
  std::iota(v.begin(), v.end(), first);
  return Tensor::from(v, {kRows, tokens});
}

}  // namespace

Tensor history_ids() {
  return ids(0, kHistory);
}
Tensor main_ids() {
  return ids(kRows * kHistory, kTokens);
}
Tensor later_ids() {
  return ids(kRows * (kHistory + kTokens), kLater);
}

Tensor normal(const Shape& shape, DType type, const std::string& name) {
  Rng rng(13, "cotangent/" + name);
  Tensor x = Tensor::empty(shape, DType::kF64);
  double* p = x.data<double>();
  for (Index i = 0; i < x.numel(); ++i) {
    p[i] = rng.normal();
  }
  return x.to(type);
}

std::unique_ptr<Model> build(ModelConfig config, const std::string& dtype, bool recompute) {
  config.dtype = parse_enum<DType>(dtype);
  config.recompute = recompute;
  auto m = std::make_unique<Model>(
      config, layers::ModelInterface{.vocab_in = kVocab, .classes = kVocab}, 1);
  // First values such as 1 and 0 hide mistakes in gains and biases.
  for (ag::Parameter& p : m->parameters().items()) {
    p.var.mutable_value().add_(normal(p.var.shape(), DType::kF64, p.name).to(p.var.dtype()), 0.1);
  }
  return m;
}

ModelState leaves_of(const ModelState& state) {
  ModelState out = state;
  for (auto& [name, slot] : out.slots) {
    slot.value = ag::Var::leaf(slot.value.value().clone());
  }
  return out;
}

/// The model, and what laws compare with; false where something is wrong already.
bool Checker::prepare() {
  law("build", [&] { model_ = build(case_.config, dtype_); });
  if (!model_) {
    return false;
  }
  law("history", [&] {
    if (traits_of(case_).causal) {
      const ag::NoGrad no_grad;
      SeqContext seq(kRows, kHistory, {.keep_states = true});
      model_->hidden({history_ids(), {}}, seq);
      history_ = seq.outgoing().detached();
    }
    from_zero_ = pass(*model_, main_ids(), nullptr, {});
    whole_ = pass(*model_, main_ids(), &history_, {});
    for (std::size_t i = 0; i < whole_.gradients.size(); ++i) {
      if (largest({whole_.gradients[i]}) == 0) {
        fault("history", "no gradient of " + model_->parameters().items()[i].name);
      }
    }
  });
  return faults_.empty();
}

std::vector<std::string> Checker::run() {
  if (!prepare()) {
    return faults_;
  }
  if (!traits_of(case_).causal) {
    law("causal", [&] { sees_ahead(); });
    law("ranks", [&] { ranks(); });
    law("packed", [&] { packed(); });
    law("recompute", [&] { recompute(); });
    law("remake", [&] { remake(); });
    if (dtype_ == "f64") {
      law("derivative", [&] { derivative(); });
    }
    return faults_;
  }
  law("causal", [&] { causal(); });
  law("split", [&] { split("split", {1, 2, 9, 9, 20}); });
  law("split", [&] { split("split", {0, 22}); });
  std::vector<Index> every(kTokens - 1);
  std::iota(every.begin(), every.end(), 1);
  law("decode", [&] { split("decode", every); });
  law("forms", [&] { forms(); });
  law("taken", [&] { taken(); });
  law("ranks", [&] { ranks(); });
  law("packed", [&] { packed(); });
  law("rows", [&] { rows(); });
  law("save", [&] { save(); });
  law("recompute", [&] { recompute(); });
  law("remake", [&] { remake(); });
  if (dtype_ == "f64") {
    law("derivative", [&] { derivative(); });
  }
  return faults_;
}

void Checker::law(const std::string& name, const std::function<void()>& f) {
  try {
    f();
  } catch (const std::exception& e) {
    fault(name, fmt::format("exception: {}", e.what()));
  }
}

void Checker::fault(const std::string& law, const std::string& what) {
  faults_.push_back(law + ": " + what + " [" + case_.name + ", " + dtype_ + "]");
}

Run Checker::pass(Model& m, const Tensor& tokens, const ModelState* incoming, const Way& way,
                  const std::function<Tensor(Tensor)>& seed) {
  m.parameters().clear_grads();
  // Blocks that run again read contexts and states during the backward pass.
  std::list<ModelState> states;
  std::list<SeqContext> contexts;
  ag::Tape tape;
  if (incoming) {
    states.push_back(way.state_leaves ? leaves_of(*incoming) : *incoming);
  }
  std::vector<ag::Var> outs;
  std::vector<Index> cuts = way.cuts;
  cuts.push_back(tokens.size(1));
  Index from = 0;
  for (const Index to : cuts) {
    const Tensor piece = tokens.slice(1, from, to).contiguous();
    SeqContext& seq =
        contexts.emplace_back(kRows, to - from,
                              SeqOptions{.form = way.form,
                                         .chunk = way.chunk,
                                         .documents = way.documents,
                                         .incoming = states.empty() ? nullptr : &states.back(),
                                         .seen = way.seen,
                                         .left = way.left,
                                         .keep_states = way.keep_states,
                                         .runner = way.runner});
    outs.push_back(m.logits(m.hidden({piece, {}}, seq)));
    states.push_back(seq.outgoing());
    from = to;
  }
  const ag::Var out = ag::concat(outs, 1);
  std::vector<ag::Var> ends = {out};
  const Tensor cotangent = normal(out.shape(), out.dtype(), "outputs");
  std::vector<Tensor> seeds = {seed ? seed(cotangent) : cotangent};
  for (const auto& [name, slot] : states.back().slots) {
    if (way.state_cotangents) {
      ends.push_back(slot.value);
      seeds.push_back(normal(slot.value.shape(), slot.value.dtype(), name));
    }
  }
  tape.backward(ends, seeds);
  Run r{out.value(), states.back().detached()};
  r.again = [=, carried = incoming != nullptr](Model& other, const ModelState& history) {
    return pass(other, tokens, carried ? &history : nullptr, way, seed);
  };
  for (const ag::Parameter& p : m.parameters().items()) {
    r.gradients.push_back(p.var.grad());
  }
  if (incoming && way.state_leaves) {
    for (const auto& [name, slot] : states.front().slots) {
      r.into[name] = slot.value.grad();
    }
  }
  return r;
}

void Checker::same(const std::string& law, const std::string& what, const Tensor& got,
                   const Tensor& want, double tolerance, double floor, double move) {
  if (!got.defined() && !want.defined()) {
    return;
  }
  // An absent gradient is zero.
  const Tensor a = got.defined() ? got : Tensor::zeros(want.shape(), want.dtype());
  const Tensor b = want.defined() ? want : Tensor::zeros(got.shape(), got.dtype());
  if (!(a.shape() == b.shape())) {
    fault(law, fmt::format("{}: {} instead of {}", what, a.describe(), b.describe()));
    return;
  }
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  const double worst = largest_difference(x, y), size = std::max(floor, largest({b}));
  if (!(worst <= std::max(tolerance * size, move))) {
    fault(law, fmt::format("{} differs by {:.3g}, allowed {:.3g} of {:.3g}", what, worst,
                           std::max(tolerance, move / size), size));
  }
}

void Checker::same_states(const std::string& law, const ModelState& got, const ModelState& want,
                          double tolerance) {
  if (got.position != want.position) {
    fault(law, "positions differ");
  }
  if (got.slots.size() != want.slots.size()) {
    fault(law, fmt::format("{} states instead of {}", got.slots.size(), want.slots.size()));
    return;
  }
  for (const auto& [name, slot] : want.slots) {
    const auto it = got.slots.find(name);
    if (it == got.slots.end()) {
      fault(law, "no state " + name);
    } else {
      same(law, "state " + name, it->second.value.value(), slot.value.value(), tolerance);
    }
  }
}

double Checker::largest(const std::vector<Tensor>& tensors) {
  double size = 0;
  for (const Tensor& t : tensors) {
    for (const double x : t.defined() ? t.to_vector<double>() : std::vector<double>()) {
      size = std::max(size, std::abs(x));
    }
  }
  return size;
}

void Checker::same_gradients(const std::string& law, const Run& got, const Run& want,
                             double tolerance) {
  // Sums over many tokens that cancel carry the rounding of their terms.
  const double floor = 1e-2 * largest(want.gradients);
  const auto check = [&](const std::vector<double>& moves) {
    std::size_t at = 0;
    const auto move = [&] { return moves.empty() ? 0 : moves.at(at++); };
    for (std::size_t i = 0; i < want.gradients.size(); ++i) {
      same(law, "gradient of " + model_->parameters().items()[i].name, got.gradients[i],
           want.gradients[i], tolerance, floor, move());
    }
    for (const auto& [name, d] : want.into) {
      const auto it = got.into.find(name);
      same(law, "gradient into " + name, it == got.into.end() ? Tensor() : it->second, d, tolerance,
           floor, move());
    }
  };
  const std::size_t before = faults_.size();
  check({});
  if (faults_.size() > before && dtype_ == "f32" && tolerance > 0 && want.again) {
    faults_.resize(before);
    check(moves(want));
  }
}

std::vector<double> Checker::moves(const Run& run) const {
  constexpr int kDraws = 8;
  const auto exact = build(case_.config, "f64");
  ModelState history = history_;
  for (auto& [name, slot] : history.slots) {
    if (is_float(slot.value.dtype())) {
      slot.value = ag::Var(slot.value.value().to(DType::kF64));
    }
  }
  std::vector<std::vector<double>> at_rest;
  std::vector<double> out;
  Rng rng(17, "moves");
  for (int draw = 0; draw <= kDraws; ++draw) {  // the first moves nothing
    const double by = draw == 0 ? 0 : std::ldexp(1.0, -24);
    for (std::size_t i = 0; i < exact->parameters().items().size(); ++i) {
      Tensor& value = exact->parameters().items()[i].var.mutable_value();
      value.copy_(model_->parameters().items()[i].var.value());
      for (double& x : std::span(value.data<double>(), static_cast<std::size_t>(value.numel()))) {
        x *= 1 + (rng.below(2) == 0 ? by : -by);
      }
    }
    const Run moved = run.again(*exact, history);
    std::vector<Tensor> all = moved.gradients;
    for (const auto& [name, d] : moved.into) {
      all.push_back(d);
    }
    out.resize(all.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      const auto x = all[i].defined() ? all[i].to_vector<double>() : std::vector<double>();
      if (draw == 0) {
        at_rest.push_back(x);
      }
      out[i] = std::max(out[i], roundings_ * largest_difference(x, at_rest[i]));
    }
  }
  return out;
}

void Checker::same_runs(const std::string& law, const Run& got, const Run& want) {
  same_runs(law, got, want, tolerance_);
}

void Checker::same_runs(const std::string& law, const Run& got, const Run& want, double tolerance) {
  same(law, "output", got.out, want.out, tolerance);
  same_states(law, got.state, want.state, tolerance);
  same_gradients(law, got, want, tolerance);
}

}  // namespace ls::test::mixers

namespace ls::test {

std::vector<std::string> check_mixer(const MixerCase& mixer_case, const std::string& dtype) {
  const mixers::OneThread one;
  return mixers::Checker(mixer_case, dtype).run();
}

std::vector<std::string> check_ranks(const MixerCase& mixer_case, const std::string& dtype,
                                     const std::string& strategy) {
  const mixers::OneThread one;
  return mixers::Checker(mixer_case, dtype).run_ranks_by(strategy);
}

}  // namespace ls::test
