#include "experiments/baselines.h"

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>

#include "core/base/log.h"
#include "data/batcher.h"
#include "experiments/evaluate.h"

namespace ls::experiments {
namespace {

using Tokens = std::span<const std::int64_t>;
/// The label at the last of the tokens.
using Tell = std::function<std::int64_t(Tokens)>;

constexpr std::size_t kContext = 3;  // tokens of an n-gram
constexpr std::size_t kWindow = 32;  // tokens that nearest examples are compared by
constexpr Index kTrainingLabels = 200'000;
constexpr Index kMostNeighbors = 4000;
constexpr double kComparisons = 4e9;  // of tokens, over one pass
constexpr double kMostPlaces = 4e8;   // before a label, of all labels

/// How often each label came; the most frequent one, the smallest of several.
struct Counts {
  std::map<std::int64_t, Index> times;
  std::int64_t most() const {
    const auto it = std::ranges::max_element(times, {}, [](const auto& c) { return c.second; });
    return it == times.end() ? 0 : it->first;
  }
};

std::uint64_t context_hash(Tokens tokens, std::size_t n) {
  std::uint64_t hash = n;
  for (const std::int64_t token : tokens.last(n)) {
    hash = mix64(hash ^ static_cast<std::uint64_t>(token));
  }
  return hash;
}

/// Labels of the training set, once for each context of up to kContext tokens.
class NGrams {
 public:
  void add(Tokens tokens, std::int64_t label) {
    for (std::size_t n = 0; n <= std::min(kContext, tokens.size()); ++n) {
      ++counts_[context_hash(tokens, n)].times[label];
    }
  }
  std::int64_t tell(Tokens tokens) const {
    for (std::size_t n = std::min(kContext, tokens.size()); n > 0; --n) {
      const auto it = counts_.find(context_hash(tokens, n));
      if (it != counts_.end()) {
        return it->second.most();
      }
    }
    const auto any = counts_.find(context_hash({}, 0));
    return any == counts_.end() ? 0 : any->second.most();
  }

 private:
  std::unordered_map<std::uint64_t, Counts> counts_;
};

/// The ends of training examples up to labels.
class Neighbors {
 public:
  void add(Tokens tokens, std::int64_t label) {
    windows_.resize(windows_.size() + kWindow, -1);
    const Tokens end = tokens.last(std::min(kWindow, tokens.size()));
    std::ranges::copy(end, windows_.end() - std::ssize(end));
    labels_.push_back(label);
  }
  std::int64_t tell(Tokens tokens) const {
    std::array<std::int64_t, kWindow> window;
    window.fill(-1);
    const Tokens end = tokens.last(std::min(kWindow, tokens.size()));
    std::ranges::copy(end, window.end() - std::ssize(end));
    Index most = -1;
    std::int64_t label = 0;
    for (std::size_t i = 0; i < labels_.size(); ++i) {
      Index same = 0;
      for (std::size_t w = 0; w < kWindow; ++w) {
        same += windows_[i * kWindow + w] == window[w];
      }
      if (same > most) {
        most = same;
        label = labels_[i];
      }
    }
    return label;
  }

 private:
  std::vector<std::int64_t> windows_;  // [labels, kWindow], -1 before the beginning
  std::vector<std::int64_t> labels_;
};

std::size_t common_end(Tokens a, Tokens b, std::size_t most) {
  std::size_t n = 0;
  while (n < std::min({a.size(), b.size(), most}) && a[a.size() - 1 - n] == b[b.size() - 1 - n]) {
    ++n;
  }
  return n;
}

/// What most often followed the longest context of up to kContext tokens that came before.
std::int64_t in_context_n_gram(Tokens tokens) {
  std::array<Counts, kContext + 1> followers;
  for (std::size_t end = 1; end < tokens.size(); ++end) {
    const std::size_t n = common_end(tokens.first(end), tokens, kContext);
    for (std::size_t k = 0; k <= n; ++k) {
      ++followers[k].times[tokens[end]];
    }
  }
  for (std::size_t n = kContext; n > 0; --n) {
    if (!followers[n].times.empty()) {
      return followers[n].most();
    }
  }
  return followers[0].most();
}

/// What followed the last place that agrees longest with the end.
std::int64_t longest_match(Tokens tokens) {
  std::size_t longest = 0;
  std::int64_t told = 0;
  for (std::size_t end = 1; end < tokens.size(); ++end) {
    const std::size_t n = common_end(tokens.first(end), tokens, kWindow);
    if (n > 0 && n >= longest) {
      longest = n;
      told = tokens[end];
    }
  }
  return told;
}

Tokens row_of(const Tensor& t, Index row) {
  return {t.data<std::int64_t>() + row * t.size(1), static_cast<std::size_t>(t.size(1))};
}

/// Labels of a batch, each told of the tokens up to it.
Answers answer_each(const Tell& tell) {
  return [tell](const data::Batch& batch) {
    Tensor told = batch.labels.clone();
    for (Index r = 0; r < batch.rows; ++r) {
      const Tokens tokens = row_of(batch.tokens, r);
      for (std::size_t t = 0; t < tokens.size(); ++t) {
        std::int64_t& label = told.data<std::int64_t>()[r * batch.length + static_cast<Index>(t)];
        label = label == data::kIgnore ? data::kIgnore : tell(tokens.first(t + 1));
      }
    }
    return told;
  };
}

/// Those of the task itself: what is asked is known, what is right is not.
Answers answer_rows(const data::Predictor& predictor) {
  return [&predictor](const data::Batch& batch) {
    Tensor told = batch.labels.clone();
    Tensor tokens = batch.tokens, vectors = batch.vectors;  // which predictors only read
    for (Index r = 0; r < batch.rows; ++r) {
      const auto part = [&](auto* data, Index each) {
        return std::span(data + r * each, static_cast<std::size_t>(each));
      };
      data::ExampleView view{.labels = part(told.data<std::int64_t>(), batch.length)};
      if (tokens.defined()) {
        view.tokens = part(tokens.data<std::int64_t>(), batch.length);
      } else {
        view.vectors = part(vectors.data<float>(), batch.length * vectors.size(2));
      }
      for (std::int64_t& label : view.labels) {
        label = label == data::kIgnore ? data::kIgnore : 0;
      }
      predictor.answer(view);
    }
    return told;
  };
}

/// Calls `add` with the tokens up to labels of the first updates, and the label: `most` at most,
/// drawn from all of up to kTrainingLabels. Returns how many.
template <class Add>
Index go_through_training(const RunConfig& config, const data::Task& task, std::uint64_t seed,
                          Index most, const Add& add) {
  const data::Batcher batcher(task,
                              {.split = data::Split::kTrain, .batch = config.batch, .seed = seed});
  const Index first = config.steps > 0 ? batcher.make(0).labelled : 0;
  const Index among = std::min(first * config.steps, kTrainingLabels);
  const auto every = static_cast<std::uint64_t>(std::max<Index>(1, among / most));
  Index labels = 0, seen = 0;
  for (Index step = 0; step < config.steps && labels < most; ++step) {
    const data::Batch batch = batcher.make(step);
    for (Index r = 0; r < batch.rows; ++r) {
      const Tokens tokens = row_of(batch.tokens, r), asked = row_of(batch.labels, r);
      for (std::size_t t = 0; t < tokens.size() && labels < most; ++t) {
        if (asked[t] != data::kIgnore && mix64(static_cast<std::uint64_t>(seen++)) % every == 0) {
          add(tokens.first(t + 1), asked[t]);
          ++labels;
        }
      }
    }
  }
  return labels;
}

/// Of one pass over a split: labels, and the tokens up to them.
struct Asked {
  double labels = 0, tokens = 0;
};
Asked asked_of(const data::Task& task, data::Split split, const RunConfig& config) {
  const data::Batcher batcher(task, {.split = split, .batch = config.eval.batch});
  Asked all;
  for (Index i = 0; i < batcher.batches(); ++i) {
    const data::Batch batch = batcher.make(i);
    const std::int64_t* const label = batch.labels.data<std::int64_t>();
    for (Index at = 0; at < batch.rows * batch.length; ++at) {
      if (label[at] != data::kIgnore) {
        ++all.labels;
        all.tokens += static_cast<double>(at % batch.length + 1);
      }
    }
  }
  return all;
}

}  // namespace

std::vector<RunResult> baseline_results(const RunConfig& config, std::uint64_t seed) {
  const auto task = data::make_task(config.task, {.seed = seed, .stream = config.state.streams()});
  const data::TaskInfo& info = task->info();
  const data::Split split =
      task->slices(data::Split::kTest).empty() ? data::Split::kValid : data::Split::kTest;
  std::vector<RunResult> results;
  const auto measure = [&](const std::string& name, const Answers& answers) {
    RunResult& r = results.emplace_back();
    r.run = config.name;
    r.model = "(" + name + ")";
    r.metrics = info.metrics;
    r.seed = seed;
    r.complete = true;
    r.train_length = longest_training_example(*task);
    r.history.push_back(evaluate_answers(answers, *task, split, config, seed));
  };
  const std::vector<data::Predictor> predictors = task->predictors();
  for (const data::Predictor& predictor : predictors) {
    measure(predictor.name, answer_rows(predictor));
  }
  if (info.vocab_in == 0) {
    return results;
  }
  NGrams n_grams;
  go_through_training(config, *task, seed, kTrainingLabels,
                      [&](Tokens tokens, std::int64_t label) { n_grams.add(tokens, label); });
  measure("3-gram", answer_each([&](Tokens t) { return n_grams.tell(t); }));
  const Asked asked = asked_of(*task, split, config);
  const auto affordable = static_cast<Index>(
      kComparisons / (std::max(asked.labels, 1.0) * static_cast<double>(kWindow)));
  Neighbors neighbors;
  const Index told_of =
      go_through_training(config, *task, seed, std::clamp<Index>(affordable, 1, kMostNeighbors),
                          [&](Tokens tokens, std::int64_t label) { neighbors.add(tokens, label); });
  measure(fmt::format("nearest of {} examples", told_of),
          answer_each([&](Tokens t) { return neighbors.tell(t); }));
  if (info.classes != info.vocab_in) {
    return results;
  }
  if (asked.tokens > kMostPlaces) {
    log_warn(
        fmt::format("baselines in context are left out: they look at {:.2g} places before "
                    "labels, {:.2g} at most; test on fewer or shorter examples",
                    asked.tokens, kMostPlaces));
    return results;
  }
  measure("3-gram in context", answer_each(in_context_n_gram));
  measure("longest match", answer_each(longest_match));
  return results;
}

}  // namespace ls::experiments
