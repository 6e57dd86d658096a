// Flip-flop language: one bit of memory. Write sets it, ignore comes with a bit that means nothing,
// read asks for what was written last.
// Source: Liu et al., "Exposing attention glitches with flip-flop language modeling", 2023 (arXiv
// 2306.00946): pairs of instruction and bit, the first a write, the last a read, the others ignored
// with probability p, read and written with (1 - p) / 2 each. Trained at p = .8, tested at .8, .98
// and .1.
#include <algorithm>
#include <cmath>

#include "data/length_plan.h"
#include "data/task.h"

namespace ls::data {
namespace {
enum class FlipFlopLabels : std::uint8_t { kRead, kAll };
}  // namespace
}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::FlipFlopLabels> {
  static constexpr std::string_view kKind = "labels";
  static constexpr std::array<std::string_view, 2> kNames = {"read", "all"};
};

namespace ls::data {
namespace {

constexpr std::int64_t kWrite = 2, kReadOut = 3, kSkip = 4;  // 0 and 1 are the bits

class FlipFlop final : public Task {
 public:
  struct Config {
    double ignore = 0.8;
    std::vector<double> test_ignore = {0.8, 0.98, 0.1};
    FlipFlopLabels labels = FlipFlopLabels::kRead;
    LengthGrid lengths{{.length = 64}, {64, 512}};

    template <class F>
    void fields(F& f) {
      f("ignore", ignore,
        {.help = "share of instructions in training that mean nothing", .min = 0, .below = 1});
      f("test_ignore", test_ignore,
        {.help = "the same in tests, one setting for each and each length, in whole per cent",
         .min = 0,
         .below = 1,
         .min_size = 1});
      f("labels", labels,
        {.help = "answers alone, or every next token (of which most are random)"});
      lengths.fields(f);
      const std::optional<Index> bad =
          lengths.first_length([](Index t) { return t < 4 || t % 2 != 0; });
      f.check(!bad, "length",
              fmt::format("{} must be even and at least 4: instructions and bits in pairs, a write "
                          "first and a read last",
                          bad.value_or(0)));
      f.check(lengths.longest() == lengths.length, "max_length",
              "a range would have odd lengths; leave it out");
    }
  };

  FlipFlop(const Config& config, const TaskArgs& args) : Task("flip_flop", args), config_(config) {
    info_.vocab_in = info_.classes = 5;
    info_.metrics = {"tok_acc"};
    if (config.labels == FlipFlopLabels::kAll) {
      info_.tags = {"read"};
    } else {
      info_.metrics.emplace_back("seq_acc");  // else most labels are chance
    }
    add_slice(Split::kTrain, config.lengths.slice());
    std::vector<Slice> tests;
    for (const Index length : config.lengths.tested()) {
      for (const double p : config.test_ignore) {
        const Index percent = std::lround(100 * p);
        tests.push_back({.name = fmt::format("T{}.I{}", length, percent),
                         .setting = {{"ignore_percent", percent}},
                         .length = length,
                         .examples = config.lengths.test_examples});
      }
    }
    add_test_slices(tests);
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng numbers = rng(key);
    const std::size_t settings = config_.test_ignore.size();
    const double p = key.split == Split::kTrain
                         ? config_.ignore
                         : config_.test_ignore[static_cast<std::size_t>(key.slice) % settings];
    std::int64_t held = 0;
    for (std::size_t t = 0; t < out.tokens.size(); t += 2) {
      const double u = numbers.uniform();
      std::int64_t instruction = u < p ? kSkip : u < (1 + p) / 2 ? kWrite : kReadOut;
      instruction = t == 0 ? kWrite : t + 2 == out.tokens.size() ? kReadOut : instruction;
      const std::int64_t bit = instruction == kReadOut ? held : numbers.below(2);
      held = instruction == kWrite ? bit : held;
      out.tokens[t] = instruction;
      out.tokens[t + 1] = bit;
      if (instruction == kReadOut) {
        out.labels[t] = bit;
      }
    }
    if (config_.labels == FlipFlopLabels::kAll) {
      for (std::size_t t = 0; t + 1 < out.tokens.size(); ++t) {
        out.tags[t] = out.labels[t] != kIgnore ? 1 : 0;
        out.labels[t] = out.tokens[t + 1];
      }
    }
  }

  std::vector<Predictor> predictors() const override {
    if (config_.labels == FlipFlopLabels::kAll) {
      return {};
    }
    const auto answer = [](const ExampleView& in) {
      std::int64_t held = 0;
      for (std::size_t t = 0; t < in.tokens.size(); ++t) {
        if (t > 0 && in.tokens[t - 1] == kWrite) {
          held = in.tokens[t];
        }
        if (in.labels[t] != kIgnore) {
          in.labels[t] = held;
        }
      }
    };
    return {{.name = "exact", .exact = true, .answer = answer}};
  }

 private:
  Config config_;
};

LS_REGISTER(Task, FlipFlop, "flip_flop", "the bit written last, over long stretches to ignore");

}  // namespace
}  // namespace ls::data
