// What tasks in the user's text promise besides what all do.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>

#include "data/bytes/text_source.h"
#include "tests/unit/data/data_support.h"

using namespace ls;
using namespace ls::data;

namespace {

std::string text_of(const Example& e) {
  std::string text;
  for (const std::int64_t byte : e.tokens) {
    text += static_cast<char>(byte);
  }
  return text;
}

const std::string& path() {
  static const Sentences sentences;
  return sentences.path;
}

std::size_t times(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++n;
  }
  return n;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("sentences are put between sentences, near their depths and in order") {
    std::string text = "One two. Three four.\nFive six seven. Eight";
    const std::string before = text;
    const std::vector<Index> places = Haystack::put(text, {"A. ", "B. ", "C. "}, {0, 0.5, 0.5});
    CHECK(text == "A. One two. Three four.\nB. C. Five six seven. Eight");
    CHECK(places == std::vector<Index>{0, 24, 27});
    std::string none = "onewordonly";
    Haystack::put(none, {"A. ", "B. "}, {0.9, 1});
    CHECK(none == "A. B. onewordonly");
    // Far from any beginning of a sentence the beginning of a word will do.
    std::string words;
    for (int i = 0; i < 1000; ++i) {
      words += "word ";
    }
    Haystack::put(words, {"A. "}, {0.5});
    CHECK(words.find("A. ") == 2500);
  }

  TEST_CASE("words for keys and lists are different, of 3 to 8 small letters") {
    for (const auto& list : {nouns(), adjectives()}) {
      std::set<std::string_view> seen;
      for (const std::string_view word : list) {
        CAPTURE(std::string(word));
        CHECK(seen.insert(word).second);
        CHECK((word.size() >= 3 && word.size() <= 8));
        CHECK(std::ranges::all_of(word, [](char c) { return c >= 'a' && c <= 'z'; }));
      }
    }
    CHECK(nouns().size() >= 190);
    CHECK(word_pair(word_pairs() - 1) == fmt::format("{} {}", adjectives().back(), nouns().back()));
  }

  TEST_CASE("needles: as many as asked for, the one that is asked for at its depth") {
    const auto task =
        task_from(fmt::format("{{name: needle, path: \"{}\", keys: 3, values: 2, length: 2048, "
                              "test_depths: [0, 0.5, 1]}}",
                              path()));
    for (Index slice = 0; slice < 3; ++slice) {
      for (Index i = 0; i < 20; ++i) {
        const std::string text =
            text_of(example(*task, {.split = Split::kValid, .slice = slice, .index = i}));
        CHECK(times(text, "The secret number of ") == 7);
        CHECK(times(text, " is ") >= 6);
        const std::size_t question = text.rfind("The secret number of ");
        const std::string asked =
            text.substr(question, text.find('?', question) - question) + " is ";
        CHECK(times(text, asked) == 2);
        const double first = static_cast<double>(text.find(asked)) / 2048,
                     last = static_cast<double>(text.rfind(asked)) / 2048;
        const double depth = 0.5 * static_cast<double>(slice);
        CHECK(std::min(std::abs(first - depth), std::abs(last - depth)) < 0.2);
      }
    }
    CHECK(task->slices(Split::kTest).empty());
    CHECK(task->identity().size() == 1);
  }

  TEST_CASE("texts of training and validation share no sentence") {
    for (const std::string name : {"needle", "variable_tracking", "babilong", "noun_lists"}) {
      CAPTURE(name);
      const auto task =
          task_from(fmt::format("{{name: {}, path: \"{}\", length: 512}}", name, path()));
      // Runs of 24 bytes of made-up words; blocks are 8192 bytes, so that few lie across two.
      std::set<std::string> seen;
      std::size_t shared = 0, all = 0;
      for (const Split split : {Split::kTrain, Split::kValid}) {
        for (Index i = 0; i < 100; ++i) {
          const std::string text = text_of(example(*task, {.split = split, .index = i}));
          for (std::size_t at = 150; at + 224 < text.size();
               at += split == Split::kTrain ? 1 : 24) {
            const std::string part = text.substr(at, 24);
            if (part.find(" the ") != std::string::npos || std::ranges::any_of(part, [](char c) {
                  return (c < 'a' || c > 'z') && c != ' ';
                })) {
              continue;
            }
            if (split == Split::kTrain) {
              seen.insert(part);
            } else {
              shared += seen.contains(part);
              ++all;
            }
          }
        }
      }
      CHECK(all > 100);
      CHECK(shared == 0);
    }
  }

  TEST_CASE("noun lists: the second is the first, its nouns in another order, or others") {
    const auto task =
        task_from(fmt::format("{{name: noun_lists, path: \"{}\", nouns: 6, length: 300}}", path()));
    for (Index condition = 0; condition < 3; ++condition) {
      for (Index i = 0; i < 20; ++i) {
        const Example e = example(*task, {.split = Split::kValid, .slice = condition, .index = i});
        std::string list[2];
        for (std::size_t t = 0; t < e.labels.size(); ++t) {
          if (e.labels[t] != kIgnore) {
            list[e.tags[t] - 1] += static_cast<char>(e.labels[t]);
          }
        }
        const auto sorted = [](std::string text) {
          std::ranges::sort(text);
          return text;
        };
        CHECK((list[0] == list[1]) == (condition == 0));
        CHECK((sorted(list[0]) == sorted(list[1])) == (condition < 2));
        CHECK(std::ranges::count(list[1], ',') == 5);
      }
    }
  }

  TEST_CASE("word counts: the words told come more often than all others") {
    // The second has room for few words beside those that are told, the third for none.
    for (const char* const size :
         {"length: 1000", "alpha: 3, length: 132", "alpha: 9, length: 132"}) {
      CAPTURE(size);
      const auto task = task_from(
          fmt::format("{{name: word_counts, path: \"{}\", variant: frequent, {}}}", path(), size));
      for (Index i = 0; i < 20; ++i) {
        const std::string text = text_of(example(*task, {.index = i}));
        const std::size_t question = text.find("\nMost often: ");
        REQUIRE(question != std::string::npos);
        std::vector<std::size_t> count;
        for (std::size_t at = question + 13; at + 6 < text.size(); at += 7) {
          count.push_back(times(text.substr(0, question), text.substr(at, 6)));
        }
        REQUIRE(count.size() == 3);
        CHECK((count[0] > count[1] && count[1] > count[2] && count[2] >= 2));
        CHECK(times(text, "... ") > count[0]);
      }
    }
  }

  TEST_CASE("babilong: places are told about as often as each other") {
    const auto task = task_from(fmt::format("{{name: babilong, path: \"{}\"}}", path()));
    std::map<std::int64_t, int> first;
    for (Index i = 0; i < 1200; ++i) {
      const Example e = example(*task, {.index = i});
      ++first[*std::ranges::find_if(e.labels, [](std::int64_t x) { return x != kIgnore; })];
    }
    // Bedroom and bathroom share a letter.
    CHECK(first.size() == 5);
    for (const auto& [letter, n] : first) {
      CHECK(std::abs(n - (letter == 'b' ? 400 : 200)) < 90);
    }
  }
}
