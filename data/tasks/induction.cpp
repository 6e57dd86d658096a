// Induction heads: a marker and what follows it stand somewhere among random tokens; at the end the
// marker comes again, and what followed it is to be told.
// Sources: Gu and Dao, "Mamba", 2023 (arXiv 2312.00752), section 4.1.2: 16 tokens, one of them the
// marker, trained at 256, tested up to 2^20. Fu et al., "Hungry Hungry Hippos", 2022 (arXiv
// 2212.14052): 20 tokens, length 30, the marker twice in half of the examples (`twice: 0.5`).
#include <algorithm>

#include "data/length_plan.h"
#include "data/limits.h"
#include "data/task.h"

namespace ls::data {
namespace {

class Induction final : public Task {
 public:
  struct Config {
    Index vocab = 16;
    Index remember = 1;
    double twice = 0;
    LengthGrid lengths{{.length = 64}, {64, 256, 1024, 4096}};

    template <class F>
    void fields(F& f) {
      f("vocab", vocab, {.help = "tokens; the last is the marker", .min = 2, .max = kMaxVocab});
      f("remember", remember,
        {.help = "tokens behind the marker that are to be told", .min = 1, .max = kMaxLength});
      f("twice", twice,
        {.help = "share of the examples that show marker and tokens twice before they ask",
         .min = 0,
         .max = 1});
      lengths.fields(f);
      const std::optional<Index> bad =
          lengths.first_length([&](Index length) { return length < shortest(); });
      f.check(
          !bad, "length",
          fmt::format("{} is too short: the marker with {} tokens, shown and asked for{}, takes "
                      "{}",
                      bad.value_or(0), remember, twice > 0 ? ", twice" : "", shortest()));
    }
    Index shortest() const { return (1 + remember) * (twice > 0 ? 2 : 1) + remember; }
  };

  Induction(const Config& config, const TaskArgs& args) : Task("induction", args), config_(config) {
    info_.vocab_in = info_.classes = config.vocab;
    info_.metrics = {"tok_acc", "seq_acc"};
    add_slice(Split::kTrain, config.lengths.slice());
    add_test_slices(config.lengths.test_slices());
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng numbers = rng(key);
    const Index m = config_.remember, marker = config_.vocab - 1;
    const auto ordinary = [&] { return numbers.below(marker); };
    std::ranges::generate(out.tokens, ordinary);
    std::vector<std::int64_t> told(static_cast<std::size_t>(m));
    std::ranges::generate(told, ordinary);
    // Places for blocks of 1 + m tokens before the question.
    const Index context = key.length - m;
    const Index blocks = numbers.bernoulli(config_.twice) ? 2 : 1;
    std::vector<Index> at = numbers.sample_without_replacement(context - blocks * m, blocks);
    std::ranges::sort(at);
    for (Index b = 0; b < blocks; ++b) {
      write(out.tokens, at[static_cast<std::size_t>(b)] + b * m, told);
    }
    write(out.tokens, context, told);
    std::ranges::copy(told, out.labels.begin() + context);
  }

  std::vector<Predictor> predictors() const override {
    const auto answer = [marker = config_.vocab - 1](const ExampleView& in) {
      const auto shown = std::ranges::find(in.tokens, marker);
      Index told = 1;
      for (std::int64_t& label : in.labels) {
        if (label != kIgnore) {
          label = *(shown + told++);
        }
      }
    };
    return {{.name = "exact", .exact = true, .answer = answer}};
  }

 private:
  /// Marker and tokens, as far as they fit.
  void write(std::span<std::int64_t> to, Index at, const std::vector<std::int64_t>& told) const {
    std::span<std::int64_t> rest = to.subspan(static_cast<std::size_t>(at));
    rest[0] = config_.vocab - 1;
    std::copy_n(told.begin(), std::min(told.size(), rest.size() - 1), rest.begin() + 1);
  }

  Config config_;
};

LS_REGISTER(Task, Induction, "induction", "what followed a marker long ago (induction heads)");

}  // namespace
}  // namespace ls::data
