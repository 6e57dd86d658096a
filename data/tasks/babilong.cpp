// Facts in a long text: people walk, take and drop things; the sentences that say so are strewn, in
// order, in the user's text, and a question at the end needs one, two or three of them.
// Sources: Weston et al., "Towards AI-complete question answering", 2015 (arXiv 1502.05698), the
// world of bAbI: 4 people, 6 places, 3 things; Kuratov et al., "BABILong", 2024 (arXiv 2406.10149).
//   qa1  moves alone; where is a person?
//   qa2  a move in one of three, else something is taken or dropped; where is a thing?
//   qa3  the same; where was a thing before it came to the last place?
// Facts of one example are `facts` in number, the least that make a question possible at least. A
// person goes to another place than that where they are; things lie nowhere known before they are
// taken, so a taken thing is where its taker is known to be.
#include <algorithm>

#include "core/base/error.h"
#include "data/bytes/text_source.h"
#include "data/length_plan.h"
#include "data/task.h"

namespace ls::data {
namespace {
enum class Question : std::uint8_t { kOneFact, kTwoFacts, kThreeFacts };
}  // namespace
}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::Question> {
  static constexpr std::string_view kKind = "question";
  static constexpr std::array<std::string_view, 3> kNames = {"qa1", "qa2", "qa3"};
};

namespace ls::data {
namespace {

constexpr std::array<std::string_view, 4> kPeople = {"John", "Mary", "Sandra", "Daniel"};
constexpr std::array<std::string_view, 6> kPlaces = {"bedroom", "kitchen",  "garden",
                                                     "hallway", "bathroom", "office"};
constexpr std::array<std::string_view, 3> kThings = {"apple", "football", "milk"};
constexpr std::array<std::string_view, 4> kGoes = {"went", "travelled", "journeyed", "moved"};
constexpr std::string_view kAnswer = " Answer:";
constexpr Index kLongestFact = 40, kLongestQuestion = 64;  // bytes

template <std::size_t N>
Index index_of(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::ranges::find(names, name) - names.begin();
}

/// Who is where and who has what; -1 where that is not known, or nobody.
struct World {
  std::array<Index, kPeople.size()> place{-1, -1, -1, -1};
  std::array<Index, kThings.size()> holder{-1, -1, -1};
  std::array<std::vector<Index>, kThings.size()> been;  // places of a thing, in order

  void note(Index thing, Index where) {
    std::vector<Index>& places = been[static_cast<std::size_t>(thing)];
    if (places.empty() || places.back() != where) {
      places.push_back(where);
    }
  }
  void go(Index person, Index where) {
    place[static_cast<std::size_t>(person)] = where;
    for (std::size_t thing = 0; thing < kThings.size(); ++thing) {
      if (holder[thing] == person) {
        note(static_cast<Index>(thing), where);
      }
    }
  }
  void take(Index person, Index thing) {
    holder[static_cast<std::size_t>(thing)] = person;
    note(thing, place[static_cast<std::size_t>(person)]);
  }
  void drop(Index thing) { holder[static_cast<std::size_t>(thing)] = -1; }
};

class BabiLong final : public Task {
 public:
  struct Config {
    TextSource text;
    Question question = Question::kOneFact;
    Index least_facts = 2, most_facts = 8;
    LengthGrid lengths{{.length = 512}, {}, 200};

    template <class F>
    void fields(F& f) {
      text.fields(f);
      f("question", question, {.help = "facts that an answer needs: one, two or three"});
      f("least_facts", least_facts, {.help = "sentences of the world", .min = 1, .max = 1 << 16});
      f("most_facts", most_facts, {.help = "sentences of the world", .min = 1, .max = 1 << 16});
      f.check(most_facts >= least_facts, "most_facts", "must be at least least_facts");
      f.check(least_facts >= needed(), "least_facts",
              fmt::format("must be at least {} for {}", needed(), enum_name(question)));
      lengths.fields(f);
      const Index bytes = most_facts * kLongestFact + kLongestQuestion;
      const std::optional<Index> bad = lengths.first_length([&](Index t) { return t < bytes; });
      f.check(!bad, "length",
              fmt::format("{} is too short: {} facts and the question take up to {} bytes; lower "
                          "most_facts",
                          bad.value_or(0), most_facts, bytes));
    }
    /// Facts of which some always make a question: see Story.
    Index needed() const {
      return question == Question::kOneFact ? 1 : question == Question::kTwoFacts ? 2 : 3;
    }
  };

  BabiLong(const Config& config, const TaskArgs& args)
      : Task("babilong", args), config_(config), text_(config.text) {
    info_.vocab_in = info_.classes = 256;
    info_.metrics = {"seq_acc", "tok_acc"};
    info_.summary = text_.corpus().summary();
    add_slice(Split::kTrain, config.lengths.slice());
    for (const Slice& slice : config.lengths.test_slices()) {
      add_slice(Split::kValid, slice);
    }
    for (const Split split : {Split::kTrain, Split::kValid}) {
      for (const Slice& slice : slices(split)) {
        text_.check_room("babilong", split, std::max(slice.length, slice.max_length));
      }
    }
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override;

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
  struct Story {
    std::vector<std::string> facts;
    std::string question, answer;
  };
  Story tell(Rng& numbers) const;
  std::string fact(Rng& numbers, World& world, bool move) const;
  static std::string told(std::string_view before);

  Config config_;
  Haystack text_;
};

/// One more sentence, and what it does to the world: a move, or else anything that somebody can
/// take or drop, each as likely.
std::string BabiLong::fact(Rng& numbers, World& world, bool move) const {
  std::vector<std::pair<Index, Index>> takes, drops;  // person and thing
  for (Index thing = 0; thing < std::ssize(kThings); ++thing) {
    const Index holder = world.holder[static_cast<std::size_t>(thing)];
    const std::vector<Index>& been = world.been[static_cast<std::size_t>(thing)];
    if (holder >= 0) {
      drops.emplace_back(holder, thing);
      continue;
    }
    for (Index person = 0; person < std::ssize(kPeople); ++person) {
      const Index place = world.place[static_cast<std::size_t>(person)];
      if (place >= 0 && (been.empty() || been.back() == place)) {
        takes.emplace_back(person, thing);
      }
    }
  }
  const auto name = [](const auto& names, Index i) { return names[static_cast<std::size_t>(i)]; };
  if (move || (takes.empty() && drops.empty())) {
    const Index person = numbers.below(std::ssize(kPeople));
    const Index from = world.place[static_cast<std::size_t>(person)];
    Index where = numbers.below(std::ssize(kPlaces) - (from >= 0 ? 1 : 0));
    where += from >= 0 && where >= from ? 1 : 0;
    world.go(person, where);
    return fmt::format("{} {} to the {}. ", name(kPeople, person),
                       name(kGoes, numbers.below(std::ssize(kGoes))), name(kPlaces, where));
  }
  const auto chosen =
      static_cast<std::size_t>(numbers.below(std::ssize(takes) + std::ssize(drops)));
  const bool take = chosen < takes.size();
  const auto [person, thing] = take ? takes[chosen] : drops[chosen - takes.size()];
  if (take) {
    world.take(person, thing);
  } else {
    world.drop(thing);
  }
  return fmt::format("{} {} the {}. ", name(kPeople, person), take ? "got" : "dropped",
                     name(kThings, thing));
}

/// Stories in which nothing can be asked are told anew.
BabiLong::Story BabiLong::tell(Rng& numbers) const {
  for (;;) {
    Story story;
    World world;
    const Index facts =
        config_.least_facts + numbers.below(config_.most_facts - config_.least_facts + 1);
    for (Index i = 0; i < facts; ++i) {
      const bool move = config_.question == Question::kOneFact || numbers.below(3) == 0;
      story.facts.push_back(fact(numbers, world, move));
    }
    std::vector<std::pair<std::string, Index>> possible;  // questions and places
    if (config_.question == Question::kOneFact) {
      for (std::size_t p = 0; p < kPeople.size(); ++p) {
        if (world.place[p] >= 0) {
          possible.emplace_back(fmt::format("Where is {}?", kPeople[p]), world.place[p]);
        }
      }
    }
    for (std::size_t t = 0; t < kThings.size() && config_.question != Question::kOneFact; ++t) {
      const std::vector<Index>& been = world.been[t];
      if (config_.question == Question::kTwoFacts && !been.empty()) {
        possible.emplace_back(fmt::format("Where is the {}?", kThings[t]), been.back());
      }
      if (config_.question == Question::kThreeFacts && been.size() > 1) {
        possible.emplace_back(fmt::format("Where was the {} before the {}?", kThings[t],
                                          kPlaces[static_cast<std::size_t>(been.back())]),
                              been[been.size() - 2]);
      }
    }
    if (!possible.empty()) {
      const auto& [question, place] =
          possible[static_cast<std::size_t>(numbers.below(std::ssize(possible)))];
      story.question = fmt::format("\n{}{}", question, kAnswer);
      story.answer = fmt::format(" {}.", kPlaces[static_cast<std::size_t>(place)]);
      return story;
    }
  }
}

void BabiLong::sample(const ExampleKey& key, const ExampleView& out) const {
  Rng numbers = rng(key);
  const Story story = tell(numbers);
  Index left = key.length - std::ssize(story.question) - std::ssize(story.answer);
  std::vector<double> depths;
  for (const std::string& fact : story.facts) {
    left -= std::ssize(fact);
    depths.push_back(numbers.uniform());
  }
  std::ranges::sort(depths);
  std::string all = text_.draw(numbers, key.split, left);
  Haystack::put(all, story.facts, depths);
  all += story.question + story.answer;
  write_bytes(all, out);
  label_bytes(all, key.length - std::ssize(story.answer) + 1, key.length, out);
}

/// Reads the sentences again.
std::string BabiLong::told(std::string_view before) {
  World world;
  const std::size_t asked = before.rfind('\n');
  for (std::size_t at = 0; at < asked; ++at) {
    const std::string_view rest = before.substr(at);
    const auto person = std::ranges::find_if(
        kPeople, [&](std::string_view name) { return rest.starts_with(name); });
    if (person == kPeople.end()) {
      continue;
    }
    const std::string_view fact = rest.substr(0, rest.find('.'));
    const std::string_view verb = fact.substr(std::min(person->size() + 1, fact.size()));
    const std::string_view last = fact.substr(fact.rfind(' ') + 1);
    const Index who = person - kPeople.begin();
    const Index place = index_of(kPlaces, last), thing = index_of(kThings, last);
    if (place < std::ssize(kPlaces) && verb.find(" to the ") != std::string_view::npos) {
      world.go(who, place);
    } else if (thing < std::ssize(kThings) && verb.starts_with("got the ")) {
      world.take(who, thing);
    } else if (thing < std::ssize(kThings) && verb.starts_with("dropped the ")) {
      world.drop(thing);
    }
  }
  const std::string_view question = before.substr(asked + 1);
  for (std::size_t p = 0; p < kPeople.size(); ++p) {
    if (question.find(kPeople[p]) != std::string_view::npos) {
      return fmt::format(" {}.", kPlaces[static_cast<std::size_t>(world.place[p])]);
    }
  }
  for (std::size_t t = 0; t < kThings.size(); ++t) {
    if (question.find(kThings[t]) != std::string_view::npos) {
      const std::vector<Index>& been = world.been[t];
      const std::size_t back = question.starts_with("Where was") ? 2 : 1;
      return fmt::format(" {}.", kPlaces[static_cast<std::size_t>(been[been.size() - back])]);
    }
  }
  return "";
}

LS_REGISTER(Task, BabiLong, "babilong",
            "facts about people and things strewn in a text (BABILong)");

}  // namespace
}  // namespace ls::data
