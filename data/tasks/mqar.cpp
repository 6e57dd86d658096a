// Multi-query associative recall: K key-value pairs, then queries for every key. Token and vector
// (continuous) inputs, with and without rewritten keys.
//
// Sources: Arora et al., "Zoology", 2023 (arXiv 2312.04927), and the generators of its repository,
// zoology/data/{multiquery_ar,forgetting_mqar,stacked_mqar}.py. `protocol: zoology` keeps what
// those generators do, wanted or not:
//   - a finite set of examples for each setting, seen in the same order every epoch, settings one
//     after the other, the last batch of each smaller;
//   - with random_non_queries every blank becomes any token of the vocabulary: it may equal a key
//     or value of the same example, or the blank;
//   - rewritten keys: update j avoids the old value of key number j, not of the key that it
//     rewrites, so that a rewrite may repeat the old value, and two keys may end with one value;
//   - continuous, mapping global: the permutation that pairs the drawn keys with the drawn values
//     is shared, but keys and values are drawn anew, so that no association outlives its sequence.
// `protocol: clean` draws fresh examples for ever and has none of these: all values of an example
// are distinct, fillers avoid its keys and values, a global mapping ties every key to one value.
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "core/base/error.h"
#include "data/limits.h"
#include "data/query_slots.h"
#include "data/task.h"

namespace ls::data {
namespace {
enum class MqarVariant : std::uint8_t {
  kStandard,
  kForgetting,
  kContinuous,
  kContinuousForgetting
};
enum class MqarProtocol : std::uint8_t { kClean, kZoology };
enum class MqarMapping : std::uint8_t { kSequence, kGlobal };
}  // namespace
}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::MqarVariant> {
  static constexpr std::string_view kKind = "variant";
  static constexpr std::array<std::string_view, 4> kNames = {"standard", "forgetting", "continuous",
                                                             "continuous_forgetting"};
};

template <>
struct ls::EnumNames<ls::data::MqarProtocol> {
  static constexpr std::string_view kKind = "protocol";
  static constexpr std::array<std::string_view, 2> kNames = {"clean", "zoology"};
};

template <>
struct ls::EnumNames<ls::data::MqarMapping> {
  static constexpr std::string_view kKind = "mapping";
  static constexpr std::array<std::string_view, 2> kNames = {"sequence", "global"};
};

namespace ls::data {
namespace {

struct MqarSetting {
  std::optional<Index> length;
  Index pairs = 8;
  Index updates = 4;
  Index examples = 0;
  double weight = 1;

  template <class F>
  void fields(F& f) {
    f("length", length, {.help = "tokens; null: as short as the example allows", .min = 1});
    f("pairs", pairs, {.help = "keys K, each queried once", .min = 1, .max = kMaxVocab});
    f("updates", updates,
      {.help = "forgetting: keys written a second time", .min = 0, .max = kMaxVocab});
    f("examples", examples,
      {.help = "size of the set; 0: endless in training, else the default of the protocol",
       .min = 0});
    f("weight", weight, {.help = "share of the training batches (protocol clean)", .min = 0});
  }
};

class Mqar final : public Task {
 public:
  struct Config {
    MqarVariant variant = MqarVariant::kStandard;
    MqarProtocol protocol = MqarProtocol::kClean;
    Index vocab = 8192;
    Index passes = 1;
    double power_a = 0.01;
    bool random_non_queries = false;
    Index width = 32;
    MqarMapping mapping = MqarMapping::kSequence;
    std::vector<MqarSetting> train = {MqarSetting{.length = 64, .pairs = 4}};
    std::vector<MqarSetting> test;

    template <class F>
    void fields(F& f) {
      f("variant", variant, {.help = "what is recalled"});
      f("protocol", protocol,
        {.help = "fresh flawless examples, or the published generator with its quirks"});
      f("vocab", vocab,
        {.help = "tokens; the first half are keys, the second values", .min = 4, .max = kMaxVocab});
      f("passes", passes, {.help = "times the pairs are shown", .min = 1, .max = 1 << 16});
      f("power_a", power_a,
        {.help = "query slot i has weight i^(a-1): near 0 favours short gaps, 1 is uniform",
         .above = 0});
      f("random_non_queries", random_non_queries,
        {.help = "blanks become random tokens (token variants)"});
      f("width", width,
        {.help = "channels of a key or value embedding (continuous variants)",
         .min = 1,
         .max = 1 << 16});
      f.check(!continuous() || vocab * width <= kMaxLength, "width",
              "vocab times width is limited to 2^30");
      f("mapping", mapping,
        {.help = "which value belongs to a key is drawn for each sequence, or once (continuous)"});
      f("train", train, {.help = "settings to train on", .min_size = 1});
      f("test", test, {.help = "settings to validate and test on; empty: those of training"});
      const std::string train_fault = fault(train);
      f.check(train_fault.empty(), "train", train_fault);
      const std::string test_fault = fault(test);
      f.check(test_fault.empty(), "test", test_fault);
      f.check(mapping == MqarMapping::kSequence || variant == MqarVariant::kContinuous, "mapping",
              "global is for the variant continuous only");
      f.check(
          variant != MqarVariant::kForgetting || protocol == MqarProtocol::kClean || passes == 1,
          "passes", "must be 1 for forgetting under the zoology protocol");
    }

    bool continuous() const {
      return variant == MqarVariant::kContinuous || variant == MqarVariant::kContinuousForgetting;
    }
    bool forgetting() const {
      return variant == MqarVariant::kForgetting || variant == MqarVariant::kContinuousForgetting;
    }
    Index updates(const MqarSetting& s) const { return forgetting() ? s.updates : 0; }
    /// Tokens before the first query.
    Index context(const MqarSetting& s) const {
      return (s.pairs * passes + updates(s)) * (continuous() ? 1 : 2);
    }
    Index shortest(const MqarSetting& s) const {
      return context(s) + s.pairs * (continuous() ? 1 : 2);
    }
    Index length(const MqarSetting& s) const { return s.length.value_or(shortest(s)); }
    /// What makes a setting impossible, or "".
    std::string fault(const std::vector<MqarSetting>& settings) const;
  };

  Mqar(const Config& config, const TaskArgs& args);
  void sample(const ExampleKey& key, const ExampleView& out) const override;
  std::vector<Predictor> predictors() const override;

 private:
  struct Content {  // of one example; values by key, `last` after the updates
    std::vector<Index> keys, first, last;
    std::vector<Index> updated;  // places in `keys`, in the order of the updates
  };
  const MqarSetting& setting(const ExampleKey& key) const {
    return (key.split == Split::kTrain ? config_.train
                                       : config_.test)[static_cast<std::size_t>(key.slice)];
  }
  void add_slices();
  void draw_embeddings(std::uint64_t seed);
  Content draw(Rng& rng, const MqarSetting& s) const;
  void sample_tokens(Rng& rng, const MqarSetting& s, const ExampleView& out) const;
  void sample_vectors(Rng& rng, const MqarSetting& s, const ExampleView& out) const;
  std::uint8_t tag(const Content& c, Index key) const;
  void read_tokens(const ExampleView& in) const;
  void read_vectors(const ExampleView& in) const;

  Config config_;
  std::vector<float> embeddings_;    // [vocab, width], unit rows, keys then values
  std::vector<Index> global_value_;  // mapping global, clean: value of each key
};

std::string Mqar::Config::fault(const std::vector<MqarSetting>& settings) const {
  const Index keys = continuous() ? vocab / 2 : vocab / 2 - 1;
  const Index values = vocab - vocab / 2;
  for (const MqarSetting& s : settings) {
    const std::string which = fmt::format("the setting with {} pairs", s.pairs);
    const Index drawn = s.pairs + (protocol == MqarProtocol::kClean ? updates(s) : 0);
    if (updates(s) > s.pairs) {
      return fmt::format("{} has {} updates: at most one a key", which, updates(s));
    }
    if (s.pairs > keys || drawn > values) {
      return fmt::format(
          "{} needs {} keys and {} values, a vocabulary of {} has {} and {}; lower pairs or "
          "raise vocab",
          which, s.pairs, drawn, vocab, keys, values);
    }
    if (protocol == MqarProtocol::kZoology && updates(s) > 0 && values < 2) {
      return fmt::format("{} needs a second value to write", which);
    }
    if (continuous() ? length(s) != shortest(s) : length(s) < shortest(s)) {
      return fmt::format("{} needs {} {} tokens, its length is {}", which,
                         continuous() ? "exactly" : "at least", shortest(s), length(s));
    }
    if (!continuous() && length(s) % 2 != 0) {
      return fmt::format("{} has length {}: must be even", which, length(s));
    }
    if (!continuous() && random_non_queries && protocol == MqarProtocol::kClean &&
        s.pairs * 2 + updates(s) >= vocab - 1) {
      return fmt::format("{} leaves no token of {} for fillers", which, vocab);
    }
  }
  return "";
}

Mqar::Mqar(const Config& config, const TaskArgs& args) : Task("mqar", args), config_(config) {
  if (config_.test.empty()) {
    config_.test = config_.train;
    for (MqarSetting& s : config_.test) {
      s.examples = 0;
    }
  }
  for (const auto* settings : {&config_.train, &config_.test}) {
    const std::string problem = config_.fault(*settings);
    LS_CHECK(problem.empty(), kConfig, "mqar: {}", problem);
  }
  add_slices();
  info_.metrics = {"ex_acc", "tok_acc", "seq_acc"};
  if (config_.forgetting()) {
    info_.tags = {"updated", "untouched"};
  }
  if (config_.continuous()) {
    draw_embeddings(args.seed);
  } else {
    info_.vocab_in = info_.classes = config_.vocab;
  }
}

void Mqar::add_slices() {
  const bool zoology = config_.protocol == MqarProtocol::kZoology;
  for (const Split split : {Split::kTrain, Split::kValid, Split::kTest}) {
    const bool train = split == Split::kTrain;
    for (const MqarSetting& s : train ? config_.train : config_.test) {
      std::string name = fmt::format("T{}.K{}", config_.length(s), s.pairs);
      SliceSetting values{{"pairs", s.pairs}};
      if (config_.forgetting()) {
        name += fmt::format(".U{}", s.updates);
        values.emplace_back("updates", s.updates);
      }
      const Index standard_size = train ? (zoology ? 100'000 : 0) : (zoology ? 3'000 : 1'000);
      add_slice(split, {.name = name,
                        .setting = values,
                        .length = config_.length(s),
                        .examples = s.examples > 0 ? s.examples : standard_size,
                        .weight = s.weight});
    }
  }
  const auto finite = std::count_if(config_.train.begin(), config_.train.end(),
                                    [](const MqarSetting& s) { return s.examples > 0; });
  LS_CHECK(zoology || finite == 0 || finite == std::ssize(config_.train), kConfig,
           "mqar: either all or none of the training settings have a number of examples");
  if (zoology) {
    info_.order = Order::kEpochs;
  } else {
    info_.order = finite > 0 ? Order::kShuffled : Order::kFresh;
  }
}

void Mqar::draw_embeddings(std::uint64_t seed) {
  const Index keys = config_.vocab / 2, values = config_.vocab - keys, e = config_.width;
  info_.vector_width = 2 * e;
  info_.classes = values;
  embeddings_.resize(static_cast<std::size_t>(config_.vocab * e));
  auto to = embeddings_.begin();
  for (Index v = 0; v < config_.vocab; ++v) {
    Rng rng(seed, "mqar/embeddings", static_cast<std::uint64_t>(v));
    std::vector<double> row(static_cast<std::size_t>(e));
    double square = 0;
    for (double& x : row) {
      x = rng.normal();
      square += x * x;
    }
    for (const double x : row) {
      *to++ = static_cast<float>(x / std::sqrt(square));
    }
  }
  info_.class_embeddings = Tensor::empty({values, e}, DType::kF32);
  std::copy(embeddings_.begin() + keys * e, embeddings_.end(),
            info_.class_embeddings.data<float>());
  if (config_.mapping == MqarMapping::kGlobal && config_.protocol == MqarProtocol::kClean) {
    global_value_ = Rng(seed, "mqar/mapping").sample_without_replacement(values, keys);
  }
}

void Mqar::sample(const ExampleKey& key, const ExampleView& out) const {
  Rng numbers = rng(key);
  if (config_.continuous()) {
    sample_vectors(numbers, setting(key), out);
  } else {
    sample_tokens(numbers, setting(key), out);
  }
}

// Keys and values are numbers from 0 here; the token variants add where each kind begins.
Mqar::Content Mqar::draw(Rng& rng, const MqarSetting& s) const {
  const Index keys = config_.continuous() ? config_.vocab / 2 : config_.vocab / 2 - 1;
  const Index values = config_.vocab - config_.vocab / 2;
  const Index updates = config_.updates(s);
  Content c;
  c.keys = rng.sample_without_replacement(keys, s.pairs);
  if (config_.protocol == MqarProtocol::kClean) {
    c.first = rng.sample_without_replacement(values, s.pairs + updates);
    const std::vector<Index> fresh(c.first.begin() + s.pairs, c.first.end());
    c.first.resize(static_cast<std::size_t>(s.pairs));
    if (!global_value_.empty()) {
      for (std::size_t i = 0; i < c.keys.size(); ++i) {
        c.first[i] = global_value_[static_cast<std::size_t>(c.keys[i])];
      }
    }
    c.last = c.first;
    c.updated = rng.sample_without_replacement(s.pairs, updates);
    for (std::size_t j = 0; j < c.updated.size(); ++j) {
      c.last[static_cast<std::size_t>(c.updated[j])] = fresh[j];
    }
    return c;
  }
  c.first = rng.sample_without_replacement(values, s.pairs);
  if (config_.mapping == MqarMapping::kGlobal) {
    Rng shared(args().seed, "mqar/mapping", static_cast<std::uint64_t>(s.pairs));
    const std::vector<Index> order = shared.sample_without_replacement(s.pairs, s.pairs);
    std::vector<Index> mapped(c.first.size());
    for (std::size_t i = 0; i < mapped.size(); ++i) {
      mapped[i] = c.first[static_cast<std::size_t>(order[i])];
    }
    c.first = mapped;
  }
  std::vector<Index> fresh(static_cast<std::size_t>(updates));
  for (std::size_t j = 0; j < fresh.size(); ++j) {
    fresh[j] = rng.below(values - 1);
    fresh[j] += fresh[j] >= c.first[j] ? 1 : 0;  // the wrong key's old value
  }
  c.last = c.first;
  c.updated = rng.sample_without_replacement(s.pairs, updates);
  for (std::size_t j = 0; j < fresh.size(); ++j) {
    c.last[static_cast<std::size_t>(c.updated[j])] = fresh[j];
  }
  return c;
}

std::uint8_t Mqar::tag(const Content& c, Index key) const {
  return std::find(c.updated.begin(), c.updated.end(), key) != c.updated.end() ? 1 : 2;
}

void Mqar::sample_tokens(Rng& rng, const MqarSetting& s, const ExampleView& out) const {
  const Index first_value = config_.vocab / 2;
  const Content c = draw(rng, s);
  auto token = out.tokens.begin();
  const auto write = [&](Index key, Index value) {
    *token++ = 1 + c.keys[static_cast<std::size_t>(key)];
    *token++ = first_value + value;
  };
  for (Index pass = 0; pass < config_.passes; ++pass) {
    for (Index i = 0; i < s.pairs; ++i) {
      write(i, c.first[static_cast<std::size_t>(i)]);
    }
  }
  for (const Index key : c.updated) {
    write(key, c.last[static_cast<std::size_t>(key)]);
  }

  const Index context = config_.context(s);
  const Index space = (static_cast<Index>(out.tokens.size()) - context) / 2;
  const std::vector<Index> slots = draw_slots(rng, space, s.pairs, config_.power_a);
  for (Index i = 0; i < s.pairs; ++i) {
    const auto at = static_cast<std::size_t>(context + 2 * slots[static_cast<std::size_t>(i)]);
    out.tokens[at] = 1 + c.keys[static_cast<std::size_t>(i)];
    out.labels[at] = first_value + c.last[static_cast<std::size_t>(i)];
    if (config_.forgetting()) {
      out.tags[at] = tag(c, i);
    }
  }
  if (!config_.random_non_queries) {
    return;
  }
  if (config_.protocol == MqarProtocol::kZoology) {
    for (std::int64_t& t : out.tokens) {
      t = t == 0 ? rng.below(config_.vocab) : t;
    }
    return;
  }
  std::vector<bool> live(static_cast<std::size_t>(config_.vocab));
  live[0] = true;
  for (std::size_t i = 0; i < c.keys.size(); ++i) {
    live[static_cast<std::size_t>(1 + c.keys[i])] = true;
    live[static_cast<std::size_t>(first_value + c.first[i])] = true;
    live[static_cast<std::size_t>(first_value + c.last[i])] = true;
  }
  std::vector<Index> fillers;
  for (Index t = 0; t < config_.vocab; ++t) {
    if (!live[static_cast<std::size_t>(t)]) {
      fillers.push_back(t);
    }
  }
  for (std::int64_t& t : out.tokens) {
    if (t == 0) {
      t = fillers[static_cast<std::size_t>(rng.below(static_cast<Index>(fillers.size())))];
    }
  }
}

void Mqar::sample_vectors(Rng& rng, const MqarSetting& s, const ExampleView& out) const {
  const Index e = config_.width;
  const Index first_value = config_.vocab / 2;
  const Content c = draw(rng, s);
  Index t = 0;
  const auto put = [&](Index embedding, Index half) {
    std::copy_n(embeddings_.begin() + embedding * e, e, out.vectors.begin() + (2 * t + half) * e);
  };
  const auto write = [&](Index i, Index value) {
    put(c.keys[static_cast<std::size_t>(i)], 0);
    put(first_value + value, 1);
    ++t;
  };
  for (Index pass = 0; pass < config_.passes; ++pass) {
    for (const Index i : rng.sample_without_replacement(s.pairs, s.pairs)) {
      write(i, c.first[static_cast<std::size_t>(i)]);
    }
  }
  for (const Index i : c.updated) {
    write(i, c.last[static_cast<std::size_t>(i)]);
  }
  for (const Index i : rng.sample_without_replacement(s.pairs, s.pairs)) {
    put(c.keys[static_cast<std::size_t>(i)], 0);
    out.labels[static_cast<std::size_t>(t)] = c.last[static_cast<std::size_t>(i)];
    if (config_.forgetting()) {
      out.tags[static_cast<std::size_t>(t)] = tag(c, i);
    }
    ++t;
  }
}

std::vector<Predictor> Mqar::predictors() const {
  const bool zoology = config_.protocol == MqarProtocol::kZoology;
  return {{.name = "exact",
           .exact = config_.continuous() || !zoology || !config_.random_non_queries,
           .answer = [this](const ExampleView& in) {
             config_.continuous() ? read_vectors(in) : read_tokens(in);
           }}};
}

void Mqar::read_tokens(const ExampleView& in) const {
  std::map<std::int64_t, std::int64_t> last;
  bool context = true;
  for (std::size_t t = 0; t < in.tokens.size(); ++t) {
    context = context && in.labels[t] == kIgnore;
    if (context && t % 2 == 1 && in.tokens[t] != 0) {
      last[in.tokens[t - 1]] = in.tokens[t];
    }
    if (in.labels[t] != kIgnore) {
      in.labels[t] = last.at(in.tokens[t]);
    }
  }
}

void Mqar::read_vectors(const ExampleView& in) const {
  const Index e = config_.width, first_value = config_.vocab / 2;
  std::map<std::vector<float>, Index> number, last;  // of a value's vector; of a key's value
  for (Index v = first_value; v < config_.vocab; ++v) {
    const auto row = embeddings_.begin() + v * e;
    number.emplace(std::vector<float>(row, row + e), v - first_value);
  }
  for (std::size_t t = 0; t < in.labels.size(); ++t) {
    const auto step = in.vectors.begin() + static_cast<Index>(t) * 2 * e;
    const std::vector<float> key(step, step + e), value(step + e, step + 2 * e);
    if (in.labels[t] != kIgnore) {
      in.labels[t] = last.at(key);
    } else {
      last[key] = number.at(value);
    }
  }
}

LS_REGISTER(Task, Mqar, "mqar", "associative recall of many keys, with tokens or vectors");

}  // namespace
}  // namespace ls::data
