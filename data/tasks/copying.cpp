// Copying: hold M tokens over a stretch of blanks, then write them out.
// Source: Gu and Dao, "Mamba", 2023 (arXiv 2312.00752), appendix E.1; generator of the S4
// repository, src/dataloaders/datasets/copying.py.
#include <algorithm>

#include "data/limits.h"
#include "data/task.h"

namespace ls::data {
namespace {
enum class CopyVariant : std::uint8_t { kSelective, kPlain, kLag };
}  // namespace
}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::CopyVariant> {
  static constexpr std::string_view kKind = "variant";
  static constexpr std::array<std::string_view, 3> kNames = {"selective", "plain", "lag"};
};

namespace ls::data {
namespace {

class Copying final : public Task {
 public:
  struct Config {
    CopyVariant variant = CopyVariant::kSelective;
    Index vocab = 10;
    Index memorize = 8;
    Index blanks = 64;
    std::vector<Index> test_blanks;
    Index test_examples = 500;

    template <class F>
    void fields(F& f) {
      f("variant", variant,
        {.help = "tokens strewn among the blanks, tokens first, or the input given back M steps "
                 "later"});
      f("vocab", vocab,
        {.help = "symbols: blank 0, tokens 1 .. vocab-2, marker vocab-1",
         .min = 3,
         .max = kMaxVocab});
      f("memorize", memorize, {.help = "tokens to hold, M", .min = 1, .max = kMaxLength});
      f("blanks", blanks,
        {.help = "blanks among or after the tokens, L; with lag the length of the input",
         .min = 0,
         .max = kMaxLength});
      f.check(variant != CopyVariant::kLag || blanks > memorize, "blanks",
              "must be greater than memorize with lag");
      f("test_blanks", test_blanks,
        {.help = "blanks in validation; empty: as in training", .min = 0, .max = kMaxLength});
      f.check(variant != CopyVariant::kLag ||
                  std::all_of(test_blanks.begin(), test_blanks.end(),
                              [&](Index blanks_then) { return blanks_then > memorize; }),
              "test_blanks", "must be greater than memorize with lag");
      f("test_examples", test_examples,
        {.help = "examples for each number of blanks in validation and in test", .min = 1});
    }
  };

  Copying(const Config& config, const TaskArgs& args) : Task("copying", args), config_(config) {
    if (config_.test_blanks.empty()) {
      config_.test_blanks = {config_.blanks};
    }
    info_.vocab_in = info_.classes = config_.vocab;
    info_.metrics = {"tok_acc", "seq_acc"};
    const auto slice = [&](Index blanks, Index examples) {
      const bool lag = config_.variant == CopyVariant::kLag;
      return Slice{.name = fmt::format("L{}.M{}", blanks, config_.memorize),
                   .setting = {{"memorize", config_.memorize}},
                   .length = lag ? blanks : blanks + 2 * config_.memorize,
                   .examples = examples};
    };
    add_slice(Split::kTrain, slice(config_.blanks, 0));
    std::vector<Slice> tests;
    for (const Index blanks : config_.test_blanks) {
      tests.push_back(slice(blanks, config_.test_examples));
    }
    add_test_slices(tests);
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng numbers = rng(key);
    const auto m = static_cast<std::size_t>(config_.memorize);
    const std::size_t length = out.tokens.size();
    const auto token = [&] { return 1 + numbers.below(config_.vocab - 2); };
    if (config_.variant == CopyVariant::kLag) {
      std::generate(out.tokens.begin(), out.tokens.end(), token);
      // The reference also asks for a blank at the first M outputs; nothing is recalled there.
      std::copy(out.tokens.begin(), out.tokens.end() - config_.memorize,
                out.labels.begin() + config_.memorize);
      return;
    }
    std::vector<Index> place(m);
    if (config_.variant == CopyVariant::kSelective) {
      place = numbers.sample_without_replacement(static_cast<Index>(length - m), config_.memorize);
      std::sort(place.begin(), place.end());
    } else {
      for (std::size_t j = 0; j < m; ++j) {
        place[j] = static_cast<Index>(j);
      }
    }
    for (std::size_t j = 0; j < m; ++j) {
      const std::int64_t x = token();
      out.tokens[static_cast<std::size_t>(place[j])] = x;
      out.tokens[length - m + j] = config_.vocab - 1;
      out.labels[length - m + j] = x;
    }
  }

  std::vector<Predictor> predictors() const override {
    return {
        {.name = "exact", .exact = true, .answer = [this](const ExampleView& in) { read(in); }}};
  }

 private:
  void read(const ExampleView& in) const {
    const bool lag = config_.variant == CopyVariant::kLag;
    std::vector<std::int64_t> held;
    std::size_t told = 0;
    for (std::size_t t = 0; t < in.tokens.size(); ++t) {
      if (in.tokens[t] != 0 && in.tokens[t] != config_.vocab - 1) {
        held.push_back(in.tokens[t]);
      }
      if (in.labels[t] != kIgnore) {
        in.labels[t] =
            lag ? in.tokens[t - static_cast<std::size_t>(config_.memorize)] : held.at(told++);
      }
    }
  }

  Config config_;
};

LS_REGISTER(Task, Copying, "copying", "hold tokens over a stretch of blanks and write them out");

}  // namespace
}  // namespace ls::data
