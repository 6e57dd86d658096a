// Variable tracking: assignments strewn in the user's text. One variable gets a number, others copy
// one another's; at the end all variables with that number are to be told.
// Source: Hsieh et al., "RULER", 2024 (arXiv 2404.06654), variable_tracking.py: chains of 5 names
// of 5 capital letters (`hops` 4), "VAR A = 12345", then "VAR B = VAR A", in order at random
// places. There lines of noise, one worked example; here the user's text, and training instead of
// the example. Names are to be told in the order of the chain; other chains are distractors.
#include <algorithm>
#include <map>

#include "data/bytes/text_source.h"
#include "data/length_plan.h"
#include "data/task.h"

namespace ls::data {
namespace {

constexpr Index kNameBytes = 5, kNumberBytes = 5;
constexpr std::string_view kAsk = "\nVARs with ", kAnswer = ":";

class VariableTracking final : public Task {
 public:
  struct Config {
    TextSource text;
    Index chains = 1, hops = 4;
    LengthGrid lengths{{.length = 512}, {}, 200};

    template <class F>
    void fields(F& f) {
      text.fields(f);
      f("chains", chains, {.help = "chains, one of which is asked for", .min = 1, .max = 1024});
      f("hops", hops, {.help = "copies in a chain", .min = 0, .max = 1024});
      lengths.fields(f);
      const std::optional<Index> bad = lengths.first_length([&](Index t) { return t <= bytes(); });
      f.check(!bad, "length",
              fmt::format("{} is too short: {} chains of {} hops and the question take {} bytes",
                          bad.value_or(0), chains, hops, bytes()));
    }
    /// Of everything but the text.
    Index bytes() const {
      return chains *
                 (std::ssize(first("NNNNN", 10'000)) + hops * std::ssize(copy("NNNNN", "NNNNN"))) +
             std::ssize(question(10'000)) + (hops + 1) * (1 + kNameBytes);
    }
    static std::string first(const std::string& name, Index number) {
      return fmt::format("VAR {} = {}. ", name, number);
    }
    static std::string copy(const std::string& name, const std::string& from) {
      return fmt::format("VAR {} = VAR {}. ", name, from);
    }
    static std::string question(Index number) {
      return fmt::format("{}{}{}", kAsk, number, kAnswer);
    }
  };

  VariableTracking(const Config& config, const TaskArgs& args)
      : Task("variable_tracking", args), config_(config), text_(config.text) {
    info_.vocab_in = info_.classes = 256;
    info_.metrics = {"seq_acc", "tok_acc"};
    info_.summary = text_.corpus().summary();
    add_slice(Split::kTrain, config.lengths.slice());
    for (const Slice& slice : config.lengths.test_slices()) {
      add_slice(Split::kValid, slice);
    }
    for (const Split split : {Split::kTrain, Split::kValid}) {
      for (const Slice& slice : slices(split)) {
        text_.check_room("variable_tracking", split, std::max(slice.length, slice.max_length));
      }
    }
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng numbers = rng(key);
    Index names = 1;
    for (Index i = 0; i < kNameBytes; ++i) {
      names *= 26;
    }
    const Index each = config_.hops + 1;
    std::vector<std::string> name;
    for (Index n : numbers.sample_without_replacement(names, config_.chains * each)) {
      name.emplace_back();
      for (Index i = 0; i < kNameBytes; ++i, n /= 26) {
        name.back() += static_cast<char>('A' + n % 26);
      }
    }
    const std::vector<Index> value = numbers.sample_without_replacement(90'000, config_.chains);
    // Which chain goes on next is random, the order within each is kept.
    std::vector<std::size_t> turn;
    for (Index i = 0; i < config_.chains * each; ++i) {
      turn.push_back(static_cast<std::size_t>(i / each));
    }
    numbers.shuffle(turn);
    std::vector<std::size_t> done(static_cast<std::size_t>(config_.chains));
    std::vector<std::string> sentences;
    std::vector<double> depths;
    for (const std::size_t chain : turn) {
      const std::size_t at = chain * static_cast<std::size_t>(each) + done[chain];
      sentences.push_back(done[chain] == 0 ? Config::first(name[at], 10'000 + value[chain])
                                           : Config::copy(name[at], name[at - 1]));
      depths.push_back(numbers.uniform());
      ++done[chain];
    }
    std::ranges::sort(depths);
    const auto asked = static_cast<std::size_t>(numbers.below(config_.chains));
    std::string all = text_.draw(numbers, key.split, key.length - config_.bytes());
    Haystack::put(all, sentences, depths);
    all += Config::question(10'000 + value[asked]);
    for (std::size_t i = 0; i < static_cast<std::size_t>(each); ++i) {
      all += " " + name[asked * static_cast<std::size_t>(each) + i];
    }
    write_bytes(all, out);
    for (Index i = 0; i < each; ++i) {
      const Index from = key.length - (each - i) * (1 + kNameBytes) + 1;
      label_bytes(all, from, from + kNameBytes, out);
    }
  }

  std::vector<Predictor> predictors() const override {
    const auto answer = [](const ExampleView& in) { answer_questions(in, kAnswer, told); };
    return {{.name = "exact", .exact = true, .answer = answer}};
  }

  std::vector<DataIdentity> identity() const override {
    std::vector<DataIdentity> out{text_.corpus().identity()};
    out.back().field = "task.path";
    return out;
  }

 private:
  /// Follows the assignments in the order of the text.
  static std::string told(std::string_view before) {
    const std::string_view number = before.substr(before.size() - kNumberBytes);
    std::map<std::string_view, std::string_view> value;
    std::string answer;
    constexpr std::string_view kVar = "VAR ", kGets = " = ";
    for (std::size_t at = before.find(kVar); at != std::string_view::npos;
         at = before.find(kVar, at + 1)) {
      const std::size_t gets = at + kVar.size() + kNameBytes;
      if (before.substr(std::min(gets, before.size()), kGets.size()) != kGets) {
        continue;  // the source of a copy
      }
      const std::string_view name = before.substr(at + kVar.size(), kNameBytes);
      const std::string_view from = before.substr(gets + kGets.size());
      value[name] = from.starts_with(kVar) ? value[from.substr(kVar.size(), kNameBytes)]
                                           : from.substr(0, kNumberBytes);
      answer += value[name] == number ? fmt::format(" {}", name) : "";
    }
    return answer;
  }

  Config config_;
  Haystack text_;
};

LS_REGISTER(Task, VariableTracking, "variable_tracking",
            "variables that copy one another, strewn in a text (RULER)");

}  // namespace
}  // namespace ls::data
