// A mixer learns what only memory solves.
#include "autograd/tape.h"
#include "core/base/rng.h"
#include "optim/optimizer.h"
#include "tests/laws/mixers/checker.h"

namespace ls::test {

using layers::Model;
using layers::ModelConfig;
using layers::SeqContext;

double learned_accuracy(const MixerCase& mixer_case) {
  const mixers::OneThread one;
  constexpr Index kClasses = 5, kBatch = 16, kLength = 12;  // class 4: none yet
  const Index steps = traits_of(mixer_case).learns_within;
  ModelConfig config = mixer_case.config;
  config.dtype = DType::kF32;
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
  for (Index step = 1; step <= steps + 1; ++step) {
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
    if (step > steps) {  // fresh samples: only tokens after the one to remember count
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
    tape.backward(loss.sum, Tensor::full({}, loss.sum.dtype(), 1.0 / (kBatch * kLength)));
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
