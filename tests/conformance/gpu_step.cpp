// The update of all parameters on a GPU is that of the processor, within rounding.
#include <doctest/doctest.h>

#include <limits>

#include "core/config/yaml.h"
#include "core/tensor/graph.h"
#include "optim/step.h"
#include "tests/support/draw.h"
#include "tests/support/gpu.h"
#include "tests/support/skip.h"
#include "tests/support/tolerance.h"

using namespace ls;
using namespace ls::optim;
using namespace ls::test;

namespace {

struct RuleConfig {
  Component<Optimizer> rule;
  template <class F>
  void fields(F& f) {
    f("rule", rule, {.help = "update rule", .required = true});
  }
};

/// Parameters of several sizes, one longer than what one block takes.
struct Problem {
  Problem(const std::string& rule_name, const std::string& fields, DType t, Device& device)
      : rule(read_config_text<RuleConfig>("rule: {name: " + rule_name + fields + "}").rule.make()),
        values(step_values(device)) {
    Draw draw("gpu step");
    for (const Shape& s : {Shape{3, 5}, Shape{7}, Shape{1}, Shape{130, 77}}) {
      const auto move = [&](const Tensor& x) { return x.to(t).to(device); };
      params.push_back({move(draw.normal(s)), move(draw.normal(s, 4)), s.rank() > 1});
      states.emplace_back();
      for (std::size_t i = 0; i < rule->state_names().size(); ++i) {
        states.back().push_back(Tensor::zeros(s, t, device));
      }
    }
    loss = Tensor::full({}, t, 50, device);
    labels = Tensor::full({1}, DType::kF64, 40, device);
  }
  void step() {
    value_slot(values, StepValue::kRate).fill_(0.1);
    add_loss(values, loss, labels);
    add_loss(values, loss, labels);
    update_all(*rule, {params, states}, values, 1.0);
  }
  std::vector<Tensor> contents() const {
    std::vector<Tensor> all = {values.to(cpu())};
    for (std::size_t i = 0; i < params.size(); ++i) {
      all.push_back(params[i].value.to(cpu()));
      for (const Tensor& s : states[i]) {
        all.push_back(s.to(cpu()));
      }
    }
    return all;
  }
  std::unique_ptr<Optimizer> rule;
  Tensor values, loss, labels;
  std::vector<ParamSlice> params;
  std::vector<std::vector<Tensor>> states;
};

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("an update on a GPU") {
    Device* const device = gpu();
    if (!device) {
      skipped("an update on a GPU: there is none that this program can use");
      return;
    }
    const struct {
      const char *rule, *fields;
    } rules[] = {{"adamw", ", weight_decay: 0.1"},
                 {"sgd", ""},
                 {"sgd", ", momentum: 0.9, nesterov: true, weight_decay: 0.1"}};
    for (const auto& [rule, fields] : rules) {
      for (const DType t : {DType::kF32, DType::kF64}) {
        CAPTURE(rule);
        CAPTURE(fields);
        Problem here(rule, fields, t, cpu()), there(rule, fields, t, *device);
        Stream& stream = device->default_stream();
        here.step();
        here.step();
        there.step();
        Graph graph(stream, graph_memory(*device), [&] { there.step(); });
        graph.replay(stream);
        const std::vector<Tensor> want = here.contents(), got = there.contents();
        for (std::size_t i = 0; i < want.size(); ++i) {
          CHECK(difference(got[i], want[i], tolerance(t, 100)) == "");
        }
        // A loss that is not finite stops all later updates.
        const std::vector<Tensor> before = there.contents();
        there.loss.fill_(std::numeric_limits<double>::quiet_NaN());
        there.step();
        there.loss.fill_(1.0);
        there.step();
        const std::vector<Tensor> after = there.contents();
        CHECK(step_value(after[0], StepValue::kStopped) == 3);
        for (std::size_t i = 1; i < after.size(); ++i) {
          CHECK(bit_difference(after[i], before[i]) == "");
        }
      }
    }
  }
}
