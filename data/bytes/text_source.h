#pragma once
// The user's text in the config of a task, and pieces of it to hide things in.
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/config/fields.h"
#include "core/config/limits.h"
#include "data/bytes/corpus.h"

namespace ls::data {

/// Part of a task's Config; its `fields` calls that of the source.
struct TextSource {
  std::string path;
  std::vector<std::string> suffixes;
  HeldOut split = HeldOut::kBlocks;
  double valid_share = 0.05;
  Index split_salt = 0;

  template <class F>
  void fields(F& f) {
    f("path", path,
      {.help = "file, or directory searched through; a file is a document",
       .required = true,
       .min_size = 1,
       .hashed = false,
       .file = true});
    f("suffixes", suffixes, {.help = "keep only files whose names end so; empty: all"});
    f("split", split,
      {.help = "held out of path: blocks of 8 KiB, the tail of every file in one stretch, or "
               "whole files"});
    f("valid_share", valid_share,
      {.help = "share of the blocks, of every file's bytes or of the files held out",
       .above = 0,
       .below = 1});
    f("split_salt", split_salt,
      {.help = "another number holds out other blocks or files", .min = 0, .max = kMaxSeed});
  }
  CorpusOptions options() const {
    return {.path = path,
            .suffixes = suffixes,
            .split = split,
            .valid_share = valid_share,
            .salt = static_cast<std::uint64_t>(split_salt)};
  }
};

/// Text with sentences put into it.
class Haystack {
 public:
  /// @throws as ByteCorpus
  explicit Haystack(const TextSource& source) : corpus_(source.options()) {}

  const ByteCorpus& corpus() const { return corpus_; }
  /// @throws Error(Config) naming the split and `task` where it has less than `bytes`
  void check_room(const char* task, Split split, Index bytes) const;
  /// `bytes` bytes of the split from a random place on.
  std::string draw(Rng& rng, Split split, Index bytes) const;
  /// Puts each sentence, in order, at the beginning of a sentence or line of the text (else of a
  /// word) nearest to its depth, 0 .. 1, ascending. Returns the places of the sentences in the
  /// result.
  static std::vector<Index> put(std::string& text, const std::vector<std::string>& sentences,
                                const std::vector<double>& depths);

 private:
  ByteCorpus corpus_;
};

/// Writes a text into an example of its length, and labels of bytes: the byte at `from` .. `to`-1
/// is the label of the one before.
void write_bytes(const std::string& text, const ExampleView& out);
void label_bytes(const std::string& text, Index from, Index to, const ExampleView& out);
/// For every `marker` in a text whose answer is asked for, writes the labels of the bytes behind
/// it: those of `answer` of the text before it.
void answer_questions(const ExampleView& in, std::string_view marker,
                      const std::function<std::string(std::string_view)>& answer);

/// "calm otter": number 0 .. word_pairs()-1.
std::string word_pair(Index number);
Index word_pairs();
/// Common English nouns and adjectives of 3 .. 8 letters, all different.
std::span<const std::string_view> nouns();
std::span<const std::string_view> adjectives();

}  // namespace ls::data
