// Running parity: the label at every position is the exclusive or of all bits so far. The smallest
// task that needs a state with an eigenvalue of -1.
#include "data/length_plan.h"
#include "data/task.h"

namespace ls::data {
namespace {
enum class ParityLabels : std::uint8_t { kAll, kLast };
}  // namespace
}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::ParityLabels> {
  static constexpr std::string_view kKind = "labels";
  static constexpr std::array<std::string_view, 2> kNames = {"all", "last"};
};

namespace ls::data {
namespace {

class Parity final : public Task {
 public:
  struct Config {
    LengthPlan lengths{.length = 20};
    std::vector<Index> test_lengths = {20, 40, 80, 240};
    Index test_examples = 500;
    ParityLabels labels = ParityLabels::kAll;

    template <class F>
    void fields(F& f) {
      lengths.fields(f);
      f("test_lengths", test_lengths,
        {.help = "bits of an example in validation, one setting each", .min = 1, .min_size = 1});
      f("test_examples", test_examples, {.help = "examples for each test length", .min = 1});
      f("labels", labels, {.help = "which positions are to be answered"});
    }
  };

  Parity(const Config& config, const TaskArgs& args) : Task("parity", args), config_(config) {
    info_.vocab_in = info_.classes = 2;
    info_.metrics = {"tok_acc", "seq_acc"};
    add_slice(Split::kTrain, config.lengths.slice());
    for (const Split split : {Split::kValid, Split::kTest}) {
      for (const Index length : config.test_lengths) {
        add_slice(split, fixed_length_slice(length, config.test_examples));
      }
    }
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng bits = rng(key);
    std::int64_t parity = 0;
    for (std::size_t t = 0; t < out.tokens.size(); ++t) {
      out.tokens[t] = bits.below(2);
      parity ^= out.tokens[t];
      if (config_.labels == ParityLabels::kAll || t + 1 == out.tokens.size()) {
        out.labels[t] = parity;
      }
    }
  }

 private:
  Config config_;
};

LS_REGISTER(Task, Parity, "parity", "running parity of a bit string");

}  // namespace
}  // namespace ls::data
