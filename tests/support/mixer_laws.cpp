#include "tests/support/mixer_laws.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <list>
#include <numeric>
#include <optional>

#include "autograd/functional.h"
#include "autograd/gradcheck.h"
#include "autograd/tape.h"
#include "core/base/parallel_for.h"
#include "core/base/rng.h"
#include "core/config/yaml.h"
#include "experiments/checkpoint.h"
#include "optim/optimizer.h"

namespace ls::test {
namespace {

using layers::DocumentStarts;
using layers::Model;
using layers::ModelConfig;
using layers::ModelState;
using layers::SeqContext;
using layers::SeqOptions;
using layers::TokenMixer;

constexpr Index kRows = 2, kTokens = 23, kHistory = 6, kLater = 8;
// Ids: the history of both rows, then the tokens, then those that follow.
constexpr Index kVocab = kRows * (kHistory + kTokens + kLater);

Tensor ids(Index first, Index tokens) {
  std::vector<std::int64_t> v(static_cast<std::size_t>(kRows * tokens));
  std::iota(v.begin(), v.end(), first);
  return Tensor::from(v, {kRows, tokens});
}
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

std::unique_ptr<Model> build(ModelConfig config, const std::string& dtype, bool recompute = false) {
  config.dtype = dtype;
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

/// Work this small would spend its time waiting for threads.
struct OneThread {
  OneThread() { set_num_threads(1); }
  ~OneThread() { set_num_threads(0); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;
};

/// What a run over some pieces gives.
struct Run {
  Tensor out;                          // [B,T,V]
  ModelState state;                    // after the last token
  std::vector<Tensor> gradients;       // of parameters, undefined where none arrives
  std::map<std::string, Tensor> into;  // of the incoming states
};

struct Way {
  std::vector<Index> cuts = {};
  Form form = Form::kAuto;
  Index chunk = 0;
  bool state_leaves = true;      // the incoming states want gradients
  bool state_cotangents = true;  // gradients arrive at the outgoing states
  bool keep_states = true;
};

class Checker {
 public:
  Checker(const MixerCase& c, std::string dtype)
      : case_(c),
        dtype_(std::move(dtype)),
        // Each layer hands its rounding on to the next.
        tolerance_((dtype_ == "f64" ? 3e-12 : 2e-5) *
                   static_cast<double>(2 + c.config.layers.size())) {}

  std::vector<std::string> run() {
    law("build", [&] { model_ = build(case_.config, dtype_); });
    if (!model_) {
      return faults_;
    }
    law("history", [&] {
      {
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
    if (!faults_.empty()) {
      return faults_;
    }
    law("causal", [&] { causal(); });
    law("split", [&] { split("split", {1, 2, 9, 9, 20}); });
    law("split", [&] { split("split", {0, 22}); });
    std::vector<Index> every(kTokens - 1);
    std::iota(every.begin(), every.end(), 1);
    law("decode", [&] { split("decode", every); });
    law("forms", [&] { forms(); });
    law("packed", [&] { packed(); });
    law("rows", [&] { rows(); });
    law("save", [&] { save(); });
    law("recompute", [&] { recompute(); });
    if (dtype_ == "f64") {
      law("derivative", [&] { derivative(); });
    }
    return faults_;
  }

 private:
  void law(const std::string& name, const std::function<void()>& f) {
    try {
      f();
    } catch (const std::exception& e) {
      fault(name, fmt::format("exception: {}", e.what()));
    }
  }
  void fault(const std::string& law, const std::string& what) {
    faults_.push_back(law + ": " + what + " [" + case_.name + ", " + dtype_ + "]");
  }

  /// Forward and backward over the pieces that `way.cuts` ends, on one tape.
  static Run pass(Model& m, const Tensor& tokens, const ModelState* incoming, const Way& way,
                  const std::function<Tensor(Tensor)>& seed = {}) {
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
                                           .incoming = states.empty() ? nullptr : &states.back(),
                                           .keep_states = way.keep_states});
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
    Run r{out.value(), states.back().detached(), {}, {}};
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

  /// Values of `got` within the tolerance of `want`, relative to its size or to `floor`.
  void same(const std::string& law, const std::string& what, const Tensor& got, const Tensor& want,
            double tolerance, double floor = 0) {
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
    double worst = 0, size = floor;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double d = std::abs(x[i] - y[i]);
      worst = std::isnan(d) ? INFINITY : std::max(worst, d);
      size = std::max(size, std::abs(y[i]));
      if (std::isinf(worst)) {
        break;
      }
    }
    if (!(worst <= tolerance * size)) {
      fault(law, fmt::format("{} differs by {:.3g}, allowed {:.3g} of {:.3g}", what, worst,
                             tolerance, size));
    }
  }
  void same_states(const std::string& law, const ModelState& got, const ModelState& want,
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
  static double largest(const std::vector<Tensor>& tensors) {
    double size = 0;
    for (const Tensor& t : tensors) {
      for (const double x : t.defined() ? t.to_vector<double>() : std::vector<double>()) {
        size = std::max(size, std::abs(x));
      }
    }
    return size;
  }
  void same_gradients(const std::string& law, const Run& got, const Run& want, double tolerance) {
    // Sums over many tokens that cancel carry the rounding of their terms.
    const double floor = 1e-2 * largest(want.gradients);
    for (std::size_t i = 0; i < want.gradients.size(); ++i) {
      same(law, "gradient of " + model_->parameters().items()[i].name, got.gradients[i],
           want.gradients[i], tolerance, floor);
    }
    for (const auto& [name, d] : want.into) {
      const auto it = got.into.find(name);
      same(law, "gradient into " + name, it == got.into.end() ? Tensor() : it->second, d, tolerance,
           floor);
    }
  }
  void same_runs(const std::string& law, const Run& got, const Run& want) {
    same_runs(law, got, want, tolerance_);
  }
  void same_runs(const std::string& law, const Run& got, const Run& want, double tolerance) {
    same(law, "output", got.out, want.out, tolerance);
    same_states(law, got.state, want.state, tolerance);
    same_gradients(law, got, want, tolerance);
  }

  // ---- laws

  void causal() {
    const Tensor tokens = main_ids();
    for (const Index t : {Index{0}, Index{7}, kTokens - 1}) {
      Tensor changed = tokens.clone();
      changed.data<std::int64_t>()[t] = 0;  // row 0
      const ag::NoGrad no_grad;
      SeqContext seq(kRows, kTokens, {.incoming = &history_});
      const Tensor out = model_->logits(model_->hidden({changed, {}}, seq)).value();
      const auto bits = [](const Tensor& x, Index row, Index a, Index b) {
        return x.slice(0, row, row + 1).slice(1, a, b).to_vector<double>();
      };
      if (bits(out, 0, 0, t) != bits(whole_.out, 0, 0, t)) {
        fault("causal", fmt::format("token {} changes an output before it", t));
      }
      if (bits(out, 1, 0, kTokens) != bits(whole_.out, 1, 0, kTokens)) {
        fault("causal", fmt::format("token {} changes another row", t));
      }
      if (bits(out, 0, t, t + 1) == bits(whole_.out, 0, t, t + 1)) {
        fault("causal", fmt::format("token {} does not matter for its own output", t));
      }
      const ag::EnableGrad enable;
      const Run r = pass(*model_, tokens, &history_, {.state_cotangents = false}, [&](Tensor d) {
        d = d.clone();
        d.slice(1, t + 1, kTokens).zero_();
        d.slice(0, 1, 2).zero_();
        return d;
      });
      const Tensor embedding = r.gradients[0];
      const Index first = tokens.data<std::int64_t>()[0];
      for (Index i = 0; i < kTokens; ++i) {
        const Tensor row = embedding.select(0, first + i);
        const std::vector<double> g = row.to_vector<double>();
        const bool zero = std::all_of(g.begin(), g.end(), [](double x) { return x == 0; });
        if (i > t && !zero && !case_.config.tie_embeddings) {
          fault("causal", fmt::format("outputs up to {} have a gradient at token {}", t, i));
          break;
        }
        if (i == t && zero) {
          fault("causal", fmt::format("the output at {} has no gradient at its own token", t));
        }
      }
    }
  }

  void split(const std::string& law, const std::vector<Index>& cuts) {
    same_runs(law, pass(*model_, main_ids(), &history_, {.cuts = cuts}), whole_);
    if (law == "split") {
      same_runs("split (from zero)", pass(*model_, main_ids(), nullptr, {.cuts = cuts}),
                from_zero_);
    }
  }

  void forms() {
    for (const Form form : {Form::kRecurrent, Form::kChunk, Form::kParallel}) {
      for (const Index chunk : {Index{0}, Index{1}, Index{5}, Index{16}, kTokens, Index{64}}) {
        if (chunk == 0 || form == Form::kChunk) {
          same_runs("forms", pass(*model_, main_ids(), &history_, {.form = form, .chunk = chunk}),
                    whole_);
        }
      }
    }
  }

  void packed() {
    // Row 0 continues, then documents at 4, 5 and 19; row 1 begins anew and has one more at 12.
    const DocumentStarts starts = {{4, 5, 19}, {0, 12}};
    const std::vector<std::vector<Index>> edges = {{0, 4, 5, 19, kTokens}, {0, 12, kTokens}};
    const Tensor tokens = main_ids(), later = later_ids();
    const Index total = kTokens + kLater;
    const Tensor cotangent =
        normal({kRows, total, kVocab}, model_->dtype(), "packed and what follows");
    const ag::ParameterSet& parameters = model_->parameters();

    model_->parameters().clear_grads();
    ModelState incoming = leaves_of(history_);
    Tensor out;
    {
      ag::Tape tape;
      SeqContext seq(kRows, kTokens,
                     {.documents = &starts, .incoming = &incoming, .keep_states = true});
      const ag::Var first = model_->logits(model_->hidden({tokens, {}}, seq));
      SeqContext next(kRows, kLater, {.incoming = &seq.outgoing()});
      const ag::Var second = model_->logits(model_->hidden({later, {}}, next));
      const ag::Var all = ag::concat({first, second}, 1);
      tape.backward(all, cotangent);
      out = all.value();
    }
    Run got{out, {}, {}, {}};
    for (const ag::Parameter& p : parameters.items()) {
      got.gradients.push_back(p.var.grad());
    }
    for (const auto& [name, slot] : incoming.slots) {
      got.into[name] = slot.value.grad();
    }

    model_->parameters().clear_grads();
    Run want{Tensor::empty(out.shape(), out.dtype()), {}, {}, {}};
    ModelState carried = leaves_of(history_.rows({0}));
    for (Index row = 0; row < kRows; ++row) {
      const auto& e = edges[static_cast<std::size_t>(row)];
      for (std::size_t d = 0; d + 1 < e.size(); ++d) {
        const bool last = d + 2 == e.size();
        const Index n = e[d + 1] - e[d] + (last ? kLater : 0);
        Tensor document = Tensor::empty({1, n}, DType::kI64);
        document.slice(1, 0, e[d + 1] - e[d])
            .copy_(tokens.slice(0, row, row + 1).slice(1, e[d], e[d + 1]));
        if (last) {
          document.slice(1, n - kLater, n).copy_(later.slice(0, row, row + 1));
        }
        ag::Tape tape;
        SeqContext seq(1, n, {.incoming = row == 0 && d == 0 ? &carried : nullptr});
        const ag::Var o = model_->logits(model_->hidden({document, {}}, seq));
        tape.backward(o, cotangent.slice(0, row, row + 1).slice(1, e[d], e[d] + n).contiguous());
        want.out.slice(0, row, row + 1).slice(1, e[d], e[d] + n).copy_(o.value());
      }
    }
    for (const ag::Parameter& p : parameters.items()) {
      want.gradients.push_back(p.var.grad());
    }
    for (const auto& [name, slot] : carried.slots) {  // row 1 forgot its state
      const Tensor& d = slot.value.grad();
      if (d.defined()) {
        Shape shape = d.shape();
        shape[0] = kRows;
        want.into[name] = Tensor::zeros(shape, d.dtype());
        want.into[name].slice(0, 0, 1).copy_(d);
      }
    }
    same("packed", "output", got.out, want.out, tolerance_);
    same_gradients("packed", got, want, tolerance_);
  }

  void rows() {
    const ag::NoGrad no_grad;
    const ModelState swapped = history_.rows({1, 0});
    Tensor tokens = main_ids();
    tokens.slice(0, 0, 1).copy_(main_ids().slice(0, 1, 2));
    tokens.slice(0, 1, 2).copy_(main_ids().slice(0, 0, 1));
    SeqContext seq(kRows, kTokens, {.incoming = &swapped});
    const Tensor out = model_->logits(model_->hidden({tokens, {}}, seq)).value();
    for (Index row = 0; row < kRows; ++row) {
      same("rows", "output", out.slice(0, row, row + 1), whole_.out.slice(0, 1 - row, 2 - row), 0);
    }
  }

  void save() {
    const ag::NoGrad no_grad;
    static int count = 0;
    const auto path = std::filesystem::temp_directory_path() /
                      fmt::format("longscan_state_{}_{}.h5", getpid(), count++);
    experiments::CheckpointData data;
    data.carried = history_;
    experiments::save_checkpoint(path.string(), model_->parameters(), data);
    const ModelState back = experiments::load_checkpoint(path.string()).data.carried.value();
    std::filesystem::remove(path);
    same_states("save", back, history_, 0);
    SeqContext seq(kRows, kTokens, {.incoming = &back});
    same("save", "output", model_->logits(model_->hidden({main_ids(), {}}, seq)).value(),
         whole_.out, 0);
  }

  void recompute() {
    const auto again = build(case_.config, dtype_, true);
    for (const bool keep : {true, false}) {
      // Gradients do not flow through carried states there.
      const Way way{.state_leaves = false, .state_cotangents = false, .keep_states = keep};
      same_runs("recompute", pass(*again, main_ids(), &history_, way),
                pass(*model_, main_ids(), &history_, way), 0);
    }
  }

  void derivative() {
    ModelState leaves = leaves_of(history_);
    std::vector<ag::GradcheckInput> inputs;
    for (auto& [name, slot] : leaves.slots) {
      inputs.push_back({name, slot.value});
    }
    for (const ag::Parameter& p : model_->parameters().items()) {
      inputs.push_back({p.name, p.var});
    }
    constexpr Index n = 9;
    const Tensor tokens = main_ids().slice(1, 0, n).contiguous();
    const auto loss = [&] {
      SeqContext seq(kRows, n, {.incoming = &leaves, .keep_states = true});
      return std::vector<ag::Var>{model_->loss(model_->hidden({tokens, {}}, seq), tokens).mean};
    };
    // Many layers in a row bend too much for the usual step.
    const ag::GradcheckReport r =
        ag::gradcheck(loss, inputs, {.step = 1e-5, .full = 0, .directions = 1});
    if (!r.passed) {
      fault("derivative", r.worst);
    }
  }

  const MixerCase& case_;
  std::string dtype_;
  double tolerance_;
  std::unique_ptr<Model> model_;
  ModelState history_;
  Run from_zero_, whole_;
  std::vector<std::string> faults_;
};

/// Sets fields by name: of whole numbers, also optional ones.
class SetWhole final : public FieldVisitor {
 public:
  SetWhole(std::string_view name, Index value) : name_(name), value_(value) {}
  bool found = false;

 private:
  void field(std::string_view name, ValueRef v, const FieldOptions&) override {
    if (name != name_) {
      return;
    }
    found = true;
    if (v.ops->kind == ValueKind::kInt64) {
      *static_cast<Index*>(v.at) = value_;
    } else if (v.ops->kind == ValueKind::kOptional && v.ops->inner->kind == ValueKind::kInt64) {
      *static_cast<std::optional<Index>*>(v.at) = value_;
    }
  }
  std::string_view name_;
  Index value_;
};

/// Collects "field: value" for every switch turned and every other choice.
class Others final : public FieldVisitor {
 public:
  std::vector<std::string> settings;

 private:
  void field(std::string_view name, ValueRef v, const FieldOptions& options) override {
    if (v.ops->kind == ValueKind::kBool) {
      settings.push_back(fmt::format("{}: {}", name, !*static_cast<const bool*>(v.at)));
    } else if (v.ops->kind == ValueKind::kText) {
      for (const std::string& choice : options.choices) {
        if (choice != *static_cast<const std::string*>(v.at)) {
          settings.push_back(fmt::format("{}: \"{}\"", name, choice));
        }
      }
    } else if (v.ops->kind == ValueKind::kEnum) {
      for (const std::string_view choice : v.ops->names) {
        if (choice != v.ops->names[static_cast<std::size_t>(v.ops->get_enum(v.at))]) {
          settings.push_back(fmt::format("{}: \"{}\"", name, choice));
        }
      }
    } else if (name == "conv") {
      settings.push_back(*static_cast<const Index*>(v.at) > 0 ? "conv: 0" : "conv: 3");
      settings.push_back("conv: 1");
    }
  }
};

/// Defaults are made for wide models.
void shrink(ModelConfig& c) {
  for (auto& layer : c.layers) {
    SetWhole heads("heads", 2), dim("head_dim", 4);
    layer.config().visit(heads);
    layer.config().visit(dim);
  }
}

}  // namespace

MixerCase mixer_case(std::string name, const std::string& yaml) {
  MixerCase c{std::move(name), {}};
  c.config.width = 16;
  c.config.init_std = 0.3;
  c.config.channel.choose("none");
  read_config(ConfigTree::from_text(yaml, c.name), c.config);
  return c;
}

std::vector<std::string> right_mixers() {
  std::vector<std::string> out;
  for (const std::string& name : TokenMixer::registry().names()) {
    if (name.rfind("wrong_", 0) != 0) {
      out.push_back(name);
    }
  }
  return out;
}

std::vector<MixerCase> mixer_cases() {
  std::vector<MixerCase> cases;
  std::string all;
  for (const std::string& name : right_mixers()) {
    all += (all.empty() ? "" : ", ") + name;
    MixerCase plain = mixer_case(name, "layers: [" + name + "]");
    shrink(plain.config);
    cases.push_back(plain);
    Others others;
    plain.config.layers[0].config().visit(others);
    for (const std::string& setting : others.settings) {
      MixerCase c;
      try {
        c = mixer_case(name + ", " + setting,
                       fmt::format("layers: [{{name: {}, {}}}]", name, setting));
        shrink(c.config);
        validate_config(c.config);
      } catch (const Error&) {
        continue;  // not with the other defaults
      }
      cases.push_back(std::move(c));
    }
  }
  const std::vector<std::pair<std::string, std::string>> picked = {
      {"attention, grouped queries", "{name: attention, heads: 4, kv_heads: 2, qk_norm: true}"},
      {"attention, one key head, head_dim",
       "{name: attention, heads: 3, kv_heads: 1, head_dim: 6}"},
      {"attention, window 1", "{name: attention, heads: 2, window: 1}"},
      {"attention, window 5", "{name: attention, heads: 2, window: 5, kv_heads: 1}"},
      {"attention, window 5, no positions", "{name: attention, window: 5, position: none}"},
      {"attention, window beyond the tokens", "{name: attention, heads: 2, window: 100}"},
      {"linear_attn, not normalised",
       "{name: linear_attn, heads: 2, normalize: false, feature_map: identity, scale: true}"},
      {"linear_attn, all on",
       "{name: linear_attn, heads: 2, expand_k: 0.5, expand_v: 2, feature_map: relu, conv: 4, "
       "scale: true, out_norm: true, eps: 0.1}"},
      {"retnet, narrow values", "{name: retnet, heads: 4, expand_v: 0.5, conv: 2, rope_theta: 50}"},
      {"simple_gla, expanded",
       "{name: simple_gla, heads: 1, expand_k: 0.5, expand_v: 2, gate_normalizer: 1}"},
      {"deltanet, expanded",
       "{name: deltanet, heads: 4, expand_k: 0.5, expand_v: 1.5, gate: true, "
       "eigenvalues: \"[-1,1]\"}"},
      {"gated_deltanet, grouped values",
       "{name: gated_deltanet, heads: 2, value_heads: 4, head_dim: 4, expand_v: 1.5}"},
      {"gated_deltanet, bare",
       "{name: gated_deltanet, heads: 1, value_heads: 3, head_dim: 8, expand_v: 0.5, conv: 0, "
       "gate: false, eigenvalues: \"[-1,1]\"}"},
      {"lstm, dense", "{name: lstm, heads: 1, forget_bias: -1}"},
      {"lstm, block-diagonal", "{name: lstm, heads: 4, recurrent_init: orthogonal}"}};
  for (const auto& [name, layer] : picked) {
    cases.push_back(mixer_case(name, "layers: [" + layer + "]"));
  }
  MixerCase hybrid = mixer_case("all in a row", "{layers: [" + all + "], channel: swiglu}");
  shrink(hybrid.config);
  hybrid.config.init_std = 0.1;
  cases.push_back(hybrid);
  const std::vector<std::pair<std::string, std::string>> skeletons = {
      {"LayerNorm, GELU, tied",
       "{norm: layer_norm, channel: {name: gelu, expand: 2}, tie_embeddings: true}"},
      {"SwiGLU, tied", "{channel: {name: swiglu, multiple: 8}, tie_embeddings: true}"},
      {"erf GELU without biases", "{channel: {name: gelu, activation: gelu_erf, bias: false}}"},
      {"LayerNorm, no channel mixer", "{norm: layer_norm, channel: none}"}};
  for (const auto& [name, yaml] : skeletons) {
    MixerCase c = mixer_case(name, yaml);
    c.config.layers = {Component<TokenMixer>("gated_deltanet"), Component<TokenMixer>("attention")};
    shrink(c.config);
    cases.push_back(std::move(c));
  }
  MixerCase pattern =
      mixer_case("three to one, twice", "layers: \"[[gated_deltanet] * 3, attention] * 2\"");
  shrink(pattern.config);
  pattern.config.init_std = 0.1;  // eight blocks deep
  cases.push_back(std::move(pattern));
  return cases;
}

std::vector<std::string> check_mixer(const MixerCase& mixer_case, const std::string& dtype) {
  const OneThread one;
  return Checker(mixer_case, dtype).run();
}

double learned_accuracy(const MixerCase& mixer_case) {
  const OneThread one;
  constexpr Index kClasses = 5, kBatch = 16, kLength = 12, kSteps = 150;  // class 4: none yet
  ModelConfig config = mixer_case.config;
  config.dtype = "f32";
  config.init_std = 0.1;
  Model model(config, {.vocab_in = kClasses, .classes = kClasses}, 3);
  const auto rule = Component<optim::Optimizer>("adamw").make();
  std::vector<std::vector<Tensor>> states;
  for (const ag::Parameter& p : model.parameters().items()) {
    states.emplace_back();
    for (std::size_t i = 0; i < rule->state_names().size(); ++i) {
      states.back().push_back(Tensor::zeros(p.var.shape(), p.var.dtype()));
    }
  }
  double accuracy = 0;
  for (Index step = 1; step <= kSteps + 1; ++step) {
    Rng rng(21, "one of four", static_cast<std::uint64_t>(step));
    std::vector<std::int64_t> tokens, labels;
    for (Index row = 0; row < kBatch; ++row) {
      const std::int64_t value = rng.below(4), at = rng.below(kLength - 1);
      for (Index t = 0; t < kLength; ++t) {
        tokens.push_back(t == at ? value : 4);
        labels.push_back(t < at ? 4 : value);
      }
    }
    const Tensor x = Tensor::from(tokens, {kBatch, kLength});
    const Tensor y = Tensor::from(labels, {kBatch, kLength});
    model.parameters().clear_grads();
    ag::Tape tape;
    SeqContext seq(kBatch, kLength, {});
    const Model::Loss loss = model.loss(model.hidden({x, {}}, seq), y);
    if (step > kSteps) {  // fresh samples: only tokens after the one to remember count
      const auto predicted = loss.predicted.to_vector<std::int64_t>();
      Index right = 0, count = 0;
      for (std::size_t i = 0; i < labels.size(); ++i) {
        if (labels[i] != 4 && tokens[i] == 4) {
          ++count;
          right += predicted[i] == labels[i];
        }
      }
      accuracy = static_cast<double>(right) / static_cast<double>(count);
      break;
    }
    tape.backward(loss.mean);
    for (std::size_t i = 0; i < states.size(); ++i) {
      ag::Parameter& p = model.parameters().items()[i];
      optim::ParamSlice slice{p.var.value(), p.var.grad(), p.decay};
      if (slice.grad.defined()) {
        rule->update(slice, states[i], {.lr = 0.01, .step = step});
      }
    }
  }
  return accuracy;
}

}  // namespace ls::test
