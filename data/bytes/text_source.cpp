#include "data/bytes/text_source.h"

#include <algorithm>

#include "core/base/error.h"

namespace ls::data {
namespace {

constexpr std::string_view kNouns[] = {
    "acorn",   "anchor",  "apple",   "apron",   "arch",     "armor",   "arrow",    "badge",
    "ballad",  "bamboo",  "banner",  "barley",  "barrel",   "basin",   "basket",   "beacon",
    "bell",    "bench",   "bottle",  "branch",  "brick",    "bridge",  "broom",    "bucket",
    "buffalo", "cabin",   "cactus",  "camel",   "candle",   "canoe",   "canyon",   "carpet",
    "castle",  "cedar",   "cellar",  "cherry",  "chimney",  "circle",  "clock",    "cloud",
    "clover",  "cobra",   "comet",   "copper",  "coral",    "cottage", "cotton",   "crane",
    "crater",  "cricket", "crown",   "curtain", "dagger",   "desert",  "dolphin",  "dragon",
    "drum",    "eagle",   "elbow",   "engine",  "falcon",   "feather", "fence",    "ferry",
    "fiddle",  "flute",   "forest",  "fossil",  "fountain", "garlic",  "garnet",   "ginger",
    "glacier", "goblet",  "granite", "grape",   "hammer",   "harbor",  "harp",     "hazel",
    "helmet",  "heron",   "hinge",   "honey",   "hornet",   "island",  "ivory",    "jacket",
    "jaguar",  "jungle",  "kettle",  "kitten",  "ladder",   "lagoon",  "lantern",  "leather",
    "lemon",   "lentil",  "lily",    "lizard",  "lobster",  "locket",  "magnet",   "mango",
    "maple",   "marble",  "meadow",  "melon",   "mirror",   "mitten",  "monkey",   "mortar",
    "mosaic",  "mule",    "mustard", "needle",  "nickel",   "nutmeg",  "oasis",    "olive",
    "onion",   "orchard", "otter",   "oyster",  "paddle",   "palace",  "panther",  "parrot",
    "pearl",   "pebble",  "pelican", "pepper",  "piano",    "pigeon",  "pillow",   "pine",
    "planet",  "plaza",   "plum",    "pocket",  "pony",     "potato",  "powder",   "prairie",
    "pumpkin", "puzzle",  "quarry",  "quill",   "rabbit",   "radish",  "raft",     "raven",
    "ribbon",  "river",   "rocket",  "saddle",  "salmon",   "sandal",  "sapphire", "scarf",
    "seal",    "shovel",  "silver",  "spider",  "sponge",   "spruce",  "statue",   "stove",
    "sugar",   "summit",  "swan",    "tablet",  "teapot",   "temple",  "thimble",  "thunder",
    "tiger",   "timber",  "tulip",   "tunnel",  "turtle",   "valley",  "vase",     "velvet",
    "violin",  "wagon",   "walnut",  "walrus",  "whistle",  "willow",  "window",   "wolf",
    "zebra"};

constexpr std::string_view kAdjectives[] = {
    "amber",  "ancient", "bitter", "blue",   "bold",   "brave", "bright", "broken",  "calm",
    "cheap",  "clever",  "cold",   "cosy",   "crisp",  "curly", "dark",   "deep",    "dusty",
    "early",  "empty",   "fancy",  "fast",   "fierce", "fond",  "fresh",  "frosty",  "gentle",
    "giant",  "golden",  "grand",  "green",  "happy",  "heavy", "hidden", "hollow",  "humble",
    "hungry", "icy",     "jolly",  "keen",   "kind",   "late",  "lazy",   "light",   "lively",
    "lonely", "loud",    "lucky",  "mellow", "merry",  "mild",  "misty",  "modest",  "muddy",
    "narrow", "neat",    "noble",  "noisy",  "odd",    "old",   "pale",   "patient", "plain",
    "polite", "proud",   "pure",   "quick",  "quiet",  "rapid", "rare",   "red",     "rich",
    "ripe",   "rough",   "round",  "royal",  "rusty",  "salty", "sharp",  "shiny",   "short",
    "silent", "simple",  "sleepy", "slow",   "smooth", "soft",  "solid",  "sour",    "steep",
    "stout",  "strange", "strong", "sunny",  "sweet",  "swift", "tall",   "tame",    "tender",
    "thick",  "thin",    "tidy",   "tiny",   "vast",   "warm",  "wide",   "wild",    "wise",
    "witty",  "young"};

bool begins_sentence(const std::string& text, std::size_t at) {
  if (at == 0 || text[at - 1] == '\n') {
    return true;
  }
  return text[at - 1] == ' ' && at > 1 &&
         std::string_view(".!?").find(text[at - 2]) != std::string_view::npos;
}

/// The place nearest to `wanted` that is good, within a part of the text that grows with it.
template <class Good>
Index nearest(const std::string& text, Index wanted, Index from, const Good& good) {
  const auto size = std::ssize(text);
  for (Index away = 0; away <= size; ++away) {
    for (const Index at : {wanted - away, wanted + away}) {
      if (at >= from && at < size && good(static_cast<std::size_t>(at))) {
        return at;
      }
    }
  }
  return size;
}

}  // namespace

void Haystack::check_room(const char* task, Split split, Index bytes) const {
  LS_CHECK(corpus_.bytes(split) >= bytes, kConfig,
           "{}: an example takes {} bytes of {} text, there are {}; give a longer text, raise "
           "valid_share or lower the lengths",
           task, bytes, enum_name(split), corpus_.bytes(split));
}

std::string Haystack::draw(Rng& rng, Split split, Index bytes) const {
  std::vector<std::uint8_t> raw(static_cast<std::size_t>(bytes));
  std::vector<Index> starts;
  corpus_.read(split, rng.below(corpus_.bytes(split)), raw, starts);
  return {raw.begin(), raw.end()};
}

std::vector<Index> Haystack::put(std::string& text, const std::vector<std::string>& sentences,
                                 const std::vector<double>& depths) {
  constexpr Index kNear = 400;  // bytes within which the beginning of a sentence is preferred
  std::string out;
  std::vector<Index> places;
  Index done = 0;
  for (std::size_t i = 0; i < sentences.size(); ++i) {
    const auto wanted = static_cast<Index>(depths[i] * static_cast<double>(text.size()));
    Index at = nearest(text, wanted, done,
                       [&](std::size_t place) { return begins_sentence(text, place); });
    if (std::abs(at - wanted) > kNear) {
      at = nearest(text, wanted, done,
                   [&](std::size_t place) { return place == 0 || text[place - 1] == ' '; });
    }
    out.append(text, static_cast<std::size_t>(done), static_cast<std::size_t>(at - done));
    places.push_back(std::ssize(out));
    out += sentences[i];
    done = at;
  }
  out.append(text, static_cast<std::size_t>(done));
  text = std::move(out);
  return places;
}

void write_bytes(const std::string& text, const ExampleView& out) {
  LS_ASSERT(text.size() == out.tokens.size());
  std::ranges::transform(text, out.tokens.begin(), [](char c) {
    return static_cast<std::int64_t>(static_cast<unsigned char>(c));
  });
}

void label_bytes(const std::string& text, Index from, Index to, const ExampleView& out) {
  for (Index t = from; t < to; ++t) {
    out.labels[static_cast<std::size_t>(t - 1)] =
        static_cast<unsigned char>(text[static_cast<std::size_t>(t)]);
  }
}

void answer_questions(const ExampleView& in, std::string_view marker,
                      const std::function<std::string(std::string_view)>& answer) {
  std::string text;
  for (const std::int64_t byte : in.tokens) {
    text += static_cast<char>(byte);
  }
  for (std::size_t at = text.find(marker); at != std::string::npos;
       at = text.find(marker, at + 1)) {
    const std::size_t behind = at + marker.size();
    const std::size_t near = std::min(behind + 1, in.labels.size());
    if (std::all_of(in.labels.begin() + static_cast<Index>(behind - 1),
                    in.labels.begin() + static_cast<Index>(near),
                    [](std::int64_t label) { return label == kIgnore; })) {
      continue;
    }
    const std::string told = answer(std::string_view(text).substr(0, at));
    for (std::size_t i = 0; i < told.size() && behind - 1 + i < in.labels.size(); ++i) {
      std::int64_t& label = in.labels[behind - 1 + i];
      label = label == kIgnore ? kIgnore : static_cast<unsigned char>(told[i]);
    }
  }
}

Index word_pairs() {
  return std::ssize(kNouns) * std::ssize(kAdjectives);
}

std::string word_pair(Index number) {
  return fmt::format("{} {}", kAdjectives[number / std::ssize(kNouns)],
                     kNouns[number % std::ssize(kNouns)]);
}

std::span<const std::string_view> nouns() {
  return kNouns;
}

std::span<const std::string_view> adjectives() {
  return kAdjectives;
}

}  // namespace ls::data
