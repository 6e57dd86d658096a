// Hash hop: chains of random hashes, given as shuffled edges "a b"; from the first hash of a chain
// the last is to be told, `hops` edges further. One hop is associative recall; more need lookups
// one after the other, or the whole chain written out (`chain_of_thought`).
// Source: Magic's hash-hop, hashhop/generate.py. There hashes are 16 letters and lines are text;
// here a hash is `hash_length` tokens of `symbols`, edges stand without separators, and a marker
// with the number of hops opens each query: n h edges of 2 l tokens, then queries
// `MARK key answer`. The order of queries is random.
#include <algorithm>
#include <map>

#include "data/limits.h"
#include "data/task.h"

namespace ls::data {
namespace {

struct HashHopSetting {
  Index chains = 8;
  Index hops = 1;
  double weight = 1;

  template <class F>
  void fields(F& f) {
    f("chains", chains, {.help = "chains of one example", .min = 1, .max = kMaxVocab});
    f("hops", hops, {.help = "edges of a chain", .min = 1, .max = 1 << 10});
    f("weight", weight, {.help = "share of the training batches", .min = 0});
  }
};

class HashHop final : public Task {
 public:
  struct Config {
    Index symbols = 256;
    Index hash_length = 1;
    Index queries = 4;
    bool chain_of_thought = false;
    std::vector<HashHopSetting> train = {{8, 1}, {8, 2}};
    std::vector<HashHopSetting> test;
    Index test_examples = 500;

    template <class F>
    void fields(F& f) {
      f("symbols", symbols, {.help = "tokens that hashes are made of", .min = 2, .max = kMaxVocab});
      f("hash_length", hash_length, {.help = "tokens of a hash", .min = 1, .max = 64});
      f("queries", queries, {.help = "chains asked for, at most all", .min = 1, .max = kMaxVocab});
      f("chain_of_thought", chain_of_thought,
        {.help = "the hashes on the way are told too, one after the other"});
      f("train", train, {.help = "settings to train on", .min_size = 1});
      f("test", test, {.help = "settings to validate and test on; empty: those of training"});
      f("test_examples", test_examples, {.help = "examples for each test setting", .min = 1});
      for (const auto& [name, settings] : {std::pair("train", &train), std::pair("test", &test)}) {
        for (const HashHopSetting& s : *settings) {
          f.check(hashes(s) <= different(), name,
                  fmt::format("{} chains of {} hops need {} different hashes, {} symbols at length "
                              "{} make {}; raise symbols or hash_length",
                              s.chains, s.hops, hashes(s), symbols, hash_length, different()));
          f.check(length(s) <= kMaxLength, name,
                  fmt::format("{} chains of {} hops take {} tokens, at most {} are supported",
                              s.chains, s.hops, length(s), kMaxLength));
        }
      }
    }
    static Index hashes(const HashHopSetting& s) { return s.chains * (s.hops + 1); }
    /// Hashes that differ in their first `leading` tokens.
    Index different() const {
      Index n = 1;
      for (Index i = 0; i < leading(); ++i) {
        n *= symbols;
      }
      return n;
    }
    /// As many tokens as have at most 2^40 values.
    Index leading() const {
      Index tokens = 0;
      for (Index n = symbols; tokens < hash_length && n <= Index{1} << 40; n *= symbols) {
        ++tokens;
      }
      return tokens;
    }
    Index asked(const HashHopSetting& s) const { return std::min(queries, s.chains); }
    Index answer(const HashHopSetting& s) const {
      return hash_length * (chain_of_thought ? s.hops : 1);
    }
    Index length(const HashHopSetting& s) const {
      return s.chains * s.hops * 2 * hash_length + asked(s) * (1 + hash_length + answer(s));
    }
    Index most_hops() const {
      Index most = 1;
      for (const auto* settings : {&train, &test}) {
        for (const HashHopSetting& s : *settings) {
          most = std::max(most, s.hops);
        }
      }
      return most;
    }
  };

  HashHop(const Config& config, const TaskArgs& args) : Task("hash_hop", args), config_(config) {
    if (config_.test.empty()) {
      config_.test = config_.train;
    }
    markers_ = config.most_hops();
    info_.vocab_in = info_.classes = config.symbols + markers_;
    info_.metrics = {"tok_acc", "seq_acc"};
    for (const HashHopSetting& s : config_.train) {
      add_slice(Split::kTrain, slice(s, 0));
    }
    std::vector<Slice> tests;
    for (const HashHopSetting& s : config_.test) {
      tests.push_back(slice(s, config.test_examples));
    }
    add_test_slices(tests);
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override;

  std::vector<Predictor> predictors() const override {
    return {
        {.name = "exact", .exact = true, .answer = [this](const ExampleView& in) { read(in); }}};
  }

 private:
  using Hash = std::vector<std::int64_t>;

  Slice slice(const HashHopSetting& s, Index examples) const {
    return {.name = fmt::format("N{}.H{}", s.chains, s.hops),
            .setting = {{"chains", s.chains}, {"hops", s.hops}},
            .length = config_.length(s),
            .examples = examples,
            .weight = s.weight};
  }
  /// Different ones, each as likely.
  std::vector<Hash> draw(Rng& numbers, Index hashes) const;
  void read(const ExampleView& in) const;

  Config config_;
  Index markers_ = 0;  // tokens 0 .. markers-1: a query over 1 .. markers hops
};

std::vector<HashHop::Hash> HashHop::draw(Rng& numbers, Index hashes) const {
  std::vector<Hash> drawn;
  for (Index left : numbers.sample_without_replacement(config_.different(), hashes)) {
    Hash& hash = drawn.emplace_back();
    for (Index i = 0; i < config_.hash_length; ++i, left /= config_.symbols) {
      const bool leads = i < config_.leading();
      hash.push_back(markers_ + (leads ? left % config_.symbols : numbers.below(config_.symbols)));
    }
  }
  return drawn;
}

void HashHop::sample(const ExampleKey& key, const ExampleView& out) const {
  Rng numbers = rng(key);
  const auto& settings = key.split == Split::kTrain ? config_.train : config_.test;
  const HashHopSetting& s = settings[static_cast<std::size_t>(key.slice)];
  const std::vector<Hash> hashes = draw(numbers, config_.hashes(s));
  auto to = out.tokens.begin();
  const auto write = [&](Index chain, Index place) {
    to = std::ranges::copy(hashes[static_cast<std::size_t>(chain * (s.hops + 1) + place)], to).out;
  };
  const Index edges = s.chains * s.hops;
  for (const Index edge : numbers.sample_without_replacement(edges, edges)) {
    write(edge / s.hops, edge % s.hops);
    write(edge / s.hops, edge % s.hops + 1);
  }
  for (const Index chain : numbers.sample_without_replacement(s.chains, config_.asked(s))) {
    *to++ = s.hops - 1;
    write(chain, 0);
    const auto answer = to;
    for (Index hop = config_.chain_of_thought ? 1 : s.hops; hop <= s.hops; ++hop) {
      write(chain, hop);
    }
    std::copy(answer, to, out.labels.begin() + (answer - out.tokens.begin()) - 1);
  }
}

void HashHop::read(const ExampleView& in) const {
  const Index l = config_.hash_length;
  const auto hash_at = [&](Index t) {
    return Hash(in.tokens.begin() + t, in.tokens.begin() + t + l);
  };
  std::map<Hash, Hash> next;
  const auto size = std::ssize(in.tokens);
  Index t = 0;
  for (; t < size && in.tokens[static_cast<std::size_t>(t)] >= markers_; t += 2 * l) {
    next[hash_at(t)] = hash_at(t + l);
  }
  while (t < size) {
    const Index hops = in.tokens[static_cast<std::size_t>(t)] + 1;
    Hash at = hash_at(t + 1), answer;
    for (Index hop = 0; hop < hops; ++hop) {
      at = next.at(at);
      answer = config_.chain_of_thought ? std::move(answer) : Hash();
      answer.insert(answer.end(), at.begin(), at.end());
    }
    const Index first = t + l;
    for (Index i = 0; i < std::ssize(answer) && first + i < size; ++i) {
      in.labels[static_cast<std::size_t>(first + i)] = answer[static_cast<std::size_t>(i)];
    }
    t = first + std::ssize(answer) + 1;
  }
}

LS_REGISTER(Task, HashHop, "hash_hop", "the end of a chain of random hashes given as edges");

}  // namespace
}  // namespace ls::data
