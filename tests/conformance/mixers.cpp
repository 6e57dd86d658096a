// What every registered mixer must satisfy, alone and in a hybrid: causality, decoding = parallel,
// split = whole, packed = separate, forms and chunks agree, states survive saving, gradients match
// finite differences, recomputation changes nothing. f64 tightly, f32 and bf16 loosely.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>

#include "autograd/functional.h"
#include "autograd/gradcheck.h"
#include "autograd/tape.h"
#include "core/rng.h"
#include "layers/model.h"

using namespace ls;
using namespace ls::layers;

namespace {

constexpr Index kVocab = 11, kBatch = 2;

ModelConfig small_config(const std::vector<std::string>& mixers, const std::string& dtype = "f64") {
  ModelConfig c;
  c.width = 16;
  c.layers.clear();
  for (const std::string& m : mixers) {
    c.layers.emplace_back(m);
  }
  c.channel.choose("swiglu");
  c.init_std = 0.3;  // large enough that every path carries a signal
  c.dtype = dtype;
  return c;
}

/// Mixer settings small enough for width 16: from code, by the YAML names of the fields.
void shrink(ModelConfig& c) {
  struct Shrink final : FieldVisitor {
    void field(std::string_view name, ValueRef v, const FieldOptions&) override {
      const auto set = [&](Index n) {
        if (v.ops->kind == ValueKind::kInt64) {
          *static_cast<Index*>(v.at) = n;
        } else if (v.ops->kind == ValueKind::kOptional && v.ops->inner->kind == ValueKind::kInt64) {
          *static_cast<std::optional<Index>*>(v.at) = n;
        }
      };
      if (name == "heads") {
        set(2);
      } else if (name == "head_dim") {
        set(4);
      }
    }
  } shrink;
  for (auto& layer : c.layers) {
    layer.config().visit(shrink);
  }
}

std::unique_ptr<Model> make(const std::vector<std::string>& mixers,
                            const std::string& dtype = "f64",
                            const std::function<void(ModelConfig&)>& change = {}) {
  ModelConfig c = small_config(mixers, dtype);
  shrink(c);
  if (change) {
    change(c);
  }
  auto m = std::make_unique<Model>(c, ModelInterface{.vocab_in = kVocab, .classes = kVocab}, 1);
  // First values such as 1 and 0 hide mistakes in gains and biases.
  for (ag::Parameter& p : m->parameters().items()) {
    Rng rng(5, "perturb/" + p.name);
    Tensor noise = Tensor::empty(p.var.shape(), DType::kF64);
    for (Index i = 0; i < noise.numel(); ++i) {
      noise.data<double>()[i] = rng.normal();
    }
    p.var.mutable_value().add_(noise, 0.1);
  }
  return m;
}

Tensor tokens(Index b, Index t, std::uint64_t seed = 0) {
  Rng rng(seed, "tokens");
  std::vector<std::int64_t> v;
  for (Index i = 0; i < b * t; ++i) {
    v.push_back(rng.below(kVocab));
  }
  return Tensor::from(v, {b, t});
}

struct Run {
  Tensor out;
  ModelState state;
};
Run forward(Model& m, const Tensor& ids, SeqOptions options = {}) {
  options.keep_states = true;
  SeqContext seq(ids.size(0), ids.size(1), options);
  const ag::Var h = m.hidden({ids, {}}, seq);
  return {h.value(), std::move(seq.outgoing())};
}

double difference(const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape())) {
    return INFINITY;
  }
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double diff = 0, scale = 1e-300;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double d = std::abs(x[i] - y[i]);
    if (!(d <= diff)) {
      diff = d;
    }
    scale = std::max(scale, std::abs(y[i]));
  }
  return diff / scale;
}

double difference(const ModelState& a, const ModelState& b) {
  if (a.slots.size() != b.slots.size() || a.position != b.position) {
    return INFINITY;
  }
  double worst = 0;
  for (const auto& [name, slot] : a.slots) {
    const auto it = b.slots.find(name);
    const double d =
        it == b.slots.end() ? INFINITY : difference(slot.value.value(), it->second.value.value());
    worst = std::max(worst, std::isnan(d) ? INFINITY : d);
  }
  return worst;
}

std::vector<std::vector<std::string>> subjects() {
  std::vector<std::vector<std::string>> all;
  for (const std::string& name : TokenMixer::registry().names()) {
    all.push_back({name});
  }
  std::vector<std::string> hybrid = TokenMixer::registry().names();
  all.push_back(hybrid);
  return all;
}

std::string label(const std::vector<std::string>& mixers) {
  return mixers.size() == 1 ? mixers[0] : "hybrid of all";
}

double tolerance(const std::string& dtype) {
  return dtype == "f64" ? 1e-11 : dtype == "f32" ? 3e-5 : 6e-2;
}

Tensor time_slice(const Tensor& t, Index a, Index b) {
  return t.slice(1, a, b).contiguous();
}

/// Outputs of [0,T) from pieces that end at `cuts`, the state carried.
Run in_pieces(Model& m, const Tensor& ids, std::vector<Index> cuts, SeqOptions options = {}) {
  std::vector<ag::Var> outs;
  ModelState state;
  Index from = 0;
  cuts.push_back(ids.size(1));
  bool started = false;
  for (const Index to : cuts) {
    SeqOptions o = options;
    o.incoming = started ? &state : nullptr;
    Run r = forward(m, time_slice(ids, from, to), o);
    outs.emplace_back(r.out);
    state = std::move(r.state);
    started = true;
    from = to;
  }
  return {ag::concat(outs, 1).value(), std::move(state)};
}

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("mixers: split = whole = token by token, in every type") {
    const ag::NoGrad no_grad;
    for (const auto& mixers : subjects()) {
      for (const std::string dtype : {"f64", "f32", "bf16"}) {
        CAPTURE(label(mixers));
        CAPTURE(dtype);
        const auto m = make(mixers, dtype);
        const Tensor ids = tokens(kBatch, 23);
        const Run whole = forward(*m, ids);
        const double tol = tolerance(dtype);
        const Run pieces = in_pieces(*m, ids, {1, 2, 9, 9, 20});
        CHECK(difference(pieces.out, whole.out) <= tol);
        CHECK(difference(pieces.state, whole.state) <= tol);
        std::vector<Index> every;
        for (Index t = 1; t < 23; ++t) {
          every.push_back(t);
        }
        const Run steps = in_pieces(*m, ids, every);
        CHECK(difference(steps.out, whole.out) <= tol);
        CHECK(difference(steps.state, whole.state) <= tol);
      }
    }
  }

  TEST_CASE("mixers: forms and chunks change nothing beyond rounding") {
    const ag::NoGrad no_grad;
    for (const auto& mixers : subjects()) {
      CAPTURE(label(mixers));
      const auto m = make(mixers);
      const Tensor ids = tokens(kBatch, 37);
      const Run whole = forward(*m, ids);
      for (const Form form : {Form::kRecurrent, Form::kChunk, Form::kParallel}) {
        for (const Index chunk : {0, 1, 5, 16, 37, 64}) {
          const Run r = forward(*m, ids, {.form = form, .chunk = chunk});
          CHECK(difference(r.out, whole.out) <= 1e-11);
          CHECK(difference(r.state, whole.state) <= 1e-11);
        }
      }
    }
  }

  TEST_CASE("mixers: a change at t leaves everything before t bitwise equal") {
    const ag::NoGrad no_grad;
    for (const auto& mixers : subjects()) {
      for (const std::string dtype : {"f64", "f32"}) {
        CAPTURE(label(mixers));
        const auto m = make(mixers, dtype);
        const Tensor ids = tokens(kBatch, 40);
        const Tensor before = forward(*m, ids).out;
        for (const Index t : {0, 7, 31, 39}) {
          Tensor changed = ids.clone();
          changed.data<std::int64_t>()[t] = (changed.data<std::int64_t>()[t] + 1) % kVocab;
          const Tensor after = forward(*m, changed).out;
          CHECK(time_slice(after, 0, t).to_vector<double>() ==
                time_slice(before, 0, t).to_vector<double>());
          CHECK(difference(after.slice(0, 1, 2), before.slice(0, 1, 2)) == 0);  // the other row
          CHECK(difference(after.slice(1, t, t + 1), before.slice(1, t, t + 1)) > 0);
        }
      }
    }
  }

  TEST_CASE("mixers: packed documents = separate documents, carried into and out of") {
    const ag::NoGrad no_grad;
    for (const auto& mixers : subjects()) {
      CAPTURE(label(mixers));
      const auto m = make(mixers);
      const Tensor ids = tokens(kBatch, 30);
      const Tensor earlier = tokens(kBatch, 6, 9);
      const Run history = forward(*m, earlier);
      // Row 0 continues, then documents at 4, 5 and 19; row 1 begins anew and has one more at 12.
      const DocumentStarts starts = {{4, 5, 19}, {0, 12}};
      const Run packed = forward(*m, ids, {.documents = &starts, .incoming = &history.state});
      const std::vector<std::vector<Index>> edges = {{0, 4, 5, 19, 30}, {0, 12, 30}};
      for (Index row = 0; row < kBatch; ++row) {
        const auto& e = edges[static_cast<std::size_t>(row)];
        for (std::size_t d = 0; d + 1 < e.size(); ++d) {
          const Tensor document = time_slice(ids.slice(0, row, row + 1), e[d], e[d + 1]);
          const ModelState carried = history.state.rows({row});
          const bool continues = row == 0 && d == 0;
          const Run alone = forward(*m, document, {.incoming = continues ? &carried : nullptr});
          CHECK(difference(packed.out.slice(0, row, row + 1).slice(1, e[d], e[d + 1]), alone.out) <=
                1e-11);
        }
      }
      // What leaves the batch: continuing gives what the last document alone would give.
      const Tensor later = tokens(kBatch, 8, 3);
      const Run next = forward(*m, later, {.incoming = &packed.state});
      for (Index row = 0; row < kBatch; ++row) {
        const auto& e = edges[static_cast<std::size_t>(row)];
        const Tensor document =
            ag::concat({ag::Var(time_slice(ids.slice(0, row, row + 1), e[e.size() - 2], 30)),
                        ag::Var(later.slice(0, row, row + 1))},
                       1)
                .value();
        const Run alone = forward(*m, document);
        const Index n = document.size(1);
        CHECK(difference(next.out.slice(0, row, row + 1), alone.out.slice(1, n - 8, n)) <= 1e-11);
      }
    }
  }

  TEST_CASE("mixers: gradients of parameters and of incoming states against finite differences") {
    for (const auto& mixers : subjects()) {
      CAPTURE(label(mixers));
      const auto m = make(mixers);
      const Tensor ids = tokens(kBatch, 9), history_ids = tokens(kBatch, 5, 4);
      const Tensor labels = tokens(kBatch, 9, 2);
      const ModelState history = [&] {
        const ag::NoGrad no_grad;
        return forward(*m, history_ids).state;
      }();
      ModelState leaves = history;
      std::vector<ag::GradcheckInput> inputs;
      for (auto& [name, slot] : leaves.slots) {
        slot.value = ag::Var::leaf(slot.value.value().clone());
        inputs.push_back({name, slot.value});
      }
      for (const ag::Parameter& p : m->parameters().items()) {
        inputs.push_back({p.name, p.var});
      }
      const auto loss = [&] {
        SeqContext seq(kBatch, 9, {.incoming = &leaves, .keep_states = true});
        return std::vector<ag::Var>{m->loss(m->hidden({ids, {}}, seq), labels).mean};
      };
      // Seven layers in a row bend too much for the usual step.
      const ag::GradcheckReport r =
          ag::gradcheck(loss, inputs, {.step = 4e-5, .full = 0, .directions = 1});
      CHECK_MESSAGE(r.passed, r.worst);
    }
  }

  TEST_CASE("mixers: recomputation and truncation give the gradients they stand for") {
    for (const auto& mixers : subjects()) {
      CAPTURE(label(mixers));
      const Tensor ids = tokens(kBatch, 12), labels = tokens(kBatch, 12, 2);
      std::vector<std::vector<double>> grads[2];
      for (const bool recompute : {false, true}) {
        const auto m = make(mixers, "f64", [&](ModelConfig& c) { c.recompute = recompute; });
        ag::Tape tape;
        SeqContext seq(kBatch, 12, {});
        tape.backward(m->loss(m->hidden({ids, {}}, seq), labels).mean);
        for (const ag::Parameter& p : m->parameters().items()) {
          grads[recompute].push_back(p.var.grad().to_vector<double>());
        }
      }
      CHECK(grads[0] == grads[1]);
    }
  }

  TEST_CASE("mixers: bf16 stays near f32, parameters and states stay f32") {
    const ag::NoGrad no_grad;
    for (const auto& mixers : subjects()) {
      CAPTURE(label(mixers));
      const Tensor ids = tokens(kBatch, 33);
      const auto a = make(mixers, "f32"), b = make(mixers, "bf16");
      const Run fa = forward(*a, ids), fb = forward(*b, ids);
      CHECK(fb.out.dtype() == DType::kBF16);
      CHECK(difference(fb.out, fa.out) <= 0.06 * static_cast<double>(mixers.size()));
      for (const ag::Parameter& p : b->parameters().items()) {
        CHECK(p.var.dtype() == DType::kF32);
      }
      for (const auto& [name, slot] : fb.state.slots) {
        CAPTURE(name);
        CHECK((slot.part == StatePart::kKeyValue || slot.value.dtype() == DType::kF32));
      }
    }
  }

  TEST_CASE("mixers: state bytes are those of the buffers, constant for fixed states") {
    const ag::NoGrad no_grad;
    for (const std::string& name : TokenMixer::registry().names()) {
      CAPTURE(name);
      const auto m = make({name}, "f32");
      const StateBytes short_run = m->measure_state(64), long_run = m->measure_state(512);
      CHECK(long_run.total() > 0);
      CHECK(long_run.matrix == short_run.matrix);
      CHECK(long_run.vector == short_run.vector);
      CHECK(long_run.conv == short_run.conv);
      CHECK((long_run.kv == 0 || long_run.kv == 8 * short_run.kv));
    }
  }
}
