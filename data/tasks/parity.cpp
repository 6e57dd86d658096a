// Running parity: the label at every position is the exclusive or of all bits so far. The smallest
// task that needs a state with an eigenvalue of -1.
#include <algorithm>

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
    LengthGrid lengths{{.length = 20}, {20, 40, 80, 240}};
    ParityLabels labels = ParityLabels::kAll;

    template <class F>
    void fields(F& f) {
      lengths.fields(f);
      f("labels", labels, {.help = "which positions are to be answered"});
    }
  };

  Parity(const Config& config, const TaskArgs& args) : Task("parity", args), config_(config) {
    info_.vocab_in = info_.classes = 2;
    info_.metrics = {"tok_acc", "seq_acc"};
    add_slice(Split::kTrain, config.lengths.slice());
    add_test_slices(config.lengths.test_slices());
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng bits = rng(key);
    for (std::int64_t& bit : out.tokens) {
      bit = bits.below(2);
    }
    if (config_.labels == ParityLabels::kAll) {
      std::ranges::fill(out.labels, 0);
    }
    out.labels.back() = 0;
    answer(out);
  }

  std::vector<Predictor> predictors() const override {
    return {{.name = "exact", .exact = true, .answer = answer}};
  }

 private:
  static void answer(const ExampleView& out) {
    std::int64_t parity = 0;
    for (std::size_t t = 0; t < out.tokens.size(); ++t) {
      parity ^= out.tokens[t];
      if (out.labels[t] != kIgnore) {
        out.labels[t] = parity;
      }
    }
  }

  Config config_;
};

LS_REGISTER(Task, Parity, "parity", "running parity of a bit string");

}  // namespace
}  // namespace ls::data
