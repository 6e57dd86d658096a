// Uniform random tokens, the next one to be told: nothing to learn, every position counts. For
// timing training steps at any vocabulary and length without other costs; the best loss is
// log(vocab).
#include "data/length_plan.h"
#include "data/limits.h"
#include "data/task.h"

namespace ls::data {
namespace {

class RandomTokens final : public Task {
 public:
  struct Config {
    Index vocab = 256;
    Index length = 256;
    Index examples = 64;

    template <class F>
    void fields(F& f) {
      f("vocab", vocab, {.help = "number of different tokens", .min = 2, .max = kMaxVocab});
      f("length", length, {.help = "tokens per example", .min = 1});
      f("examples", examples, {.help = "examples in validation", .min = 1});
    }
  };

  RandomTokens(const Config& config, const TaskArgs& args)
      : Task("random_tokens", args), config_(config) {
    info_.vocab_in = info_.classes = config.vocab;
    add_slice(Split::kTrain, fixed_length_slice(config.length, 0));
    add_slice(Split::kValid, fixed_length_slice(config.length, config.examples));
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng tokens = rng(key);
    std::int64_t next = tokens.below(config_.vocab);
    for (std::size_t t = 0; t < out.tokens.size(); ++t) {
      out.tokens[t] = next;
      next = tokens.below(config_.vocab);
      out.labels[t] = next;
    }
  }

 private:
  Config config_;
};

LS_REGISTER(Task, RandomTokens, "random_tokens", "uniform random tokens, for timing");

}  // namespace
}  // namespace ls::data
