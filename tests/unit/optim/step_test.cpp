// Whole updates on the device of the parameters.
#include "optim/step.h"

#include <doctest/doctest.h>

#include <cmath>

#include "core/tensor/graph.h"
#include "tests/support/draw.h"
#include "tests/support/stand_in.h"

using namespace ls;
using namespace ls::optim;
using test::Draw;
using test::StandIn;

namespace {

/// Three parameters under AdamW, with gradients that are sums over labels.
struct Problem {
  explicit Problem(Device& device) : rule(make()), values(step_values(device)) {
    Draw draw("optim/step");
    const Shape shapes[] = {{3, 5}, {7}, {1}};
    for (const Shape& s : shapes) {
      const auto move = [&](const Tensor& t) { return t.to(DType::kF32).to(device); };
      params.push_back({move(draw.normal(s)), move(draw.normal(s, 4)), s.rank() > 1});
      states.push_back(
          {Tensor::zeros(s, DType::kF32, device), Tensor::zeros(s, DType::kF32, device)});
    }
    loss = Tensor::full({}, DType::kF32, 50, device);
    labels = Tensor::full({1}, DType::kF64, 40, device);
  }
  static std::unique_ptr<Optimizer> make() { return Component<Optimizer>("adamw").make(); }
  /// Two pieces and the update.
  void step() {
    add_loss(values, loss, labels);
    add_loss(values, loss, labels);
    update_all(*rule, {params, states}, values, 1.0);
  }
  double value(StepValue which) const { return step_value(values.to(cpu()), which); }
  void set(StepValue which, double x) {
    Tensor v = values.to(cpu()).clone();
    set_step_value(v, which, x);
    values.transfer_(v);
  }
  std::vector<std::vector<float>> contents() const {
    std::vector<std::vector<float>> all;
    for (std::size_t i = 0; i < params.size(); ++i) {
      all.push_back(params[i].value.to_vector<float>());
      all.push_back(states[i][0].to_vector<float>());
      all.push_back(states[i][1].to_vector<float>());
    }
    return all;
  }
  std::unique_ptr<Optimizer> rule;
  Tensor values, loss, labels;
  std::vector<ParamSlice> params;
  std::vector<std::vector<Tensor>> states;
};

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("an update of all parameters is the rule for each, clipped by the common norm") {
    Problem p(cpu()), q(cpu());
    p.set(StepValue::kRate, 0.1);
    p.step();
    std::vector<Tensor> grads;
    for (const ParamSlice& s : q.params) {
      grads.push_back(s.grad);
    }
    double square = 0;
    for (const Tensor& g : grads) {
      for (const double x : g.to_vector<double>()) {
        square += x * x;
      }
    }
    CHECK(p.value(StepValue::kNorm) == doctest::Approx(std::sqrt(square) / 80));
    CHECK(p.value(StepValue::kLoss) == 1.25);
    const double factor = std::min(1.0, 1 / (p.value(StepValue::kNorm) + 1e-6));
    for (std::size_t i = 0; i < q.params.size(); ++i) {
      q.rule->update(q.params[i], q.states[i],
                     {.lr = 0.1, .step = 1, .grad_scale = 1.0 / 80 * factor});
    }
    CHECK(p.contents() == q.contents());
    CHECK(p.value(StepValue::kUpdates) == 1);
    CHECK(p.value(StepValue::kLabels) == 0);
  }

  TEST_CASE("what is carried stays as it is from an update on that was not finite") {
    for (const double labels : {40, 0}) {  // the loss of a raised error is NaN, labels or not
      CAPTURE(labels);
      Problem p(cpu());
      const Tensor next = Tensor::full({3}, DType::kF32, 2);
      Tensor carried = Tensor::zeros({3}, DType::kF32);
      p.labels.fill_(labels);
      p.step();
      copy_unless_stopped({&carried, 1}, {&next, 1}, p.values);
      CHECK(carried.to_vector<float>() == std::vector<float>(3, 2));
      p.loss.fill_(std::nan(""));
      p.step();
      const Tensor bad = Tensor::full({3}, DType::kF32, 7);
      copy_unless_stopped({&carried, 1}, {&bad, 1}, p.values);
      CHECK(carried.to_vector<float>() == std::vector<float>(3, 2));
      CHECK(p.value(StepValue::kStopped) == 2);
    }
  }

  TEST_CASE("updates on another device have the processor's bits, at once and replayed") {
    for (const std::uint64_t seed : {1, 2, 3}) {
      StandIn device(seed);
      Problem here(cpu()), there(device), replayed(device);
      Stream& stream = device.default_stream();
      Graph graph(stream, graph_memory(device), [&] { replayed.step(); });
      for (const double rate : {0.1, 0.05, 0.02}) {
        for (Problem* p : {&here, &there, &replayed}) {
          p->set(StepValue::kRate, rate);
        }
        const Index waits = device.counts().host_waits;
        const auto version = replayed.params[0].value.version();
        here.step();
        there.step();
        graph.replay(stream);
        CHECK(replayed.params[0].value.version() > version);
        CHECK(device.counts().host_waits == waits);
      }
      CHECK(there.contents() == here.contents());
      CHECK(replayed.contents() == here.contents());
      CHECK(replayed.value(StepValue::kUpdates) == 3);
      CHECK(replayed.value(StepValue::kNorm) == here.value(StepValue::kNorm));
    }
  }

  TEST_CASE("after a step that is not finite nothing changes until the host has looked") {
    StandIn device;
    for (Device* const d : {&cpu(), static_cast<Device*>(&device)}) {
      Problem p(*d);
      p.set(StepValue::kRate, 0.1);
      p.step();
      p.loss.fill_(NAN);
      const auto before = p.contents();
      p.step();
      p.loss.fill_(1);
      p.step();
      p.step();
      CHECK(p.contents() == before);
      CHECK(p.value(StepValue::kStopped) == 2);
      CHECK(p.value(StepValue::kUpdates) == 1);
      CHECK(std::isnan(p.value(StepValue::kLoss)));
      p.set(StepValue::kStopped, 0);
      p.set(StepValue::kLossSum, 0);
      p.set(StepValue::kLabels, 0);
      p.step();
      CHECK(p.contents() != before);
    }
  }

  TEST_CASE("an update without labels is none") {
    Problem p(cpu());
    const auto before = p.contents();
    p.labels.fill_(0);
    p.step();
    CHECK(p.contents() == before);
    CHECK(p.value(StepValue::kUpdates) == 0);
    CHECK(p.value(StepValue::kSteps) == 1);
  }
}
