// Gradients agree with finite differences.
#include "tests/laws/mixers/checker.h"

#include "autograd/gradcheck.h"

namespace ls::test::mixers {

void Checker::derivative() {
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
    return std::vector<ag::Var>{model_->loss(model_->hidden({tokens, {}}, seq), tokens).sum};
  };
  // Many layers in a row bend too much for the usual step.
  const ag::GradcheckReport r =
      ag::gradcheck(loss, inputs, {.step = 1e-5, .full = 0, .directions = 1});
  if (!r.passed) {
    fault("derivative", r.worst);
  }
}

}  // namespace ls::test::mixers
