// Byte-level language modelling over a file or a directory of files. Windows of the training text,
// cut from one tape on which every document begins anew; labels are the bytes that follow, none
// across the end of a document.
#include <algorithm>

#include "core/base/error.h"
#include "data/bytes/text_source.h"
#include "data/length_plan.h"
#include "data/task.h"

namespace ls::data {
namespace {

class Bytes final : public Task {
 public:
  struct Config {
    TextSource text;
    std::string valid_path;
    LengthPlan lengths{.length = 256};
    std::vector<Index> test_lengths;
    Index test_windows = 0;

    template <class F>
    void fields(F& f) {
      text.fields(f);
      f("valid_path", valid_path,
        {.help = "text to validate on; empty: what split holds out of path",
         .hashed = false,
         .file = true});
      lengths.fields(f);
      f("test_lengths", test_lengths,
        {.help = "bytes per validation window; empty: as in training; every length scores the same "
                 "bytes of text",
         .min = 1});
      f("test_windows", test_windows,
        {.help = "most windows of the longest length, spread over the validation text, or from its "
                 "beginning on where states are carried; 0: all of the text",
         .min = 0});
    }
  };

  Bytes(const Config& config, const TaskArgs& args) : Task("bytes", args) {
    if (args.training || config.valid_path.empty()) {
      CorpusOptions options = config.text.options();
      options.valid_share = config.valid_path.empty() ? options.valid_share : 0;
      corpus_ = std::make_unique<ByteCorpus>(options);
      info_.summary = corpus_->summary();
    }
    info_.vocab_in = info_.classes = 256;
    info_.order = args.stream ? Order::kStream : Order::kFresh;
    info_.metrics = {"bpb", "tok_acc"};
    if (!config.valid_path.empty()) {
      valid_ = std::make_unique<ByteCorpus>(CorpusOptions{
          .path = config.valid_path, .suffixes = config.text.suffixes, .valid_share = 1});
      info_.summary += (corpus_ ? "; " : "") + ("validation text: " + valid_->summary());
    }

    const Index longest = config.lengths.longest();
    LS_CHECK(
        !args.stream || longest == config.lengths.length || config.lengths.grow, kConfig,
        "bytes: rows that continue from step to step need one length, not one drawn from {} to "
        "{}; leave out max_length, or let it grow by a schedule",
        config.lengths.length, longest);
    if (args.training) {
      fits(config, Split::kTrain, longest);
    }
    add_slice(Split::kTrain, config.lengths.slice());
    const std::vector<Index> lengths =
        config.test_lengths.empty() ? std::vector<Index>{longest} : config.test_lengths;
    for (const Index length : lengths) {
      fits(config, Split::kValid, length);
    }
    choose_scored(*std::ranges::max_element(lengths), config.test_windows);
    for (const Index length : lengths) {
      add_slice(Split::kValid, fixed_length_slice(length, windows_of(length)));
    }
    if (args.stream) {
      Slice slice = fixed_length_slice(longest, windows_of(longest));
      slice.name += ".carried";
      slice.setting = {{"carried", 1}};
      slice.carried = true;
      add_slice(Split::kValid, slice);
    }
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    const Window window = this->window(key);
    std::vector<std::uint8_t> text(static_cast<std::size_t>(window.labels + 1));
    std::vector<Index>& starts = *out.document_starts;
    corpus(key.split).read(key.split, window.begin, text, starts);
    std::ranges::fill(out.tokens, 0);
    *out.used = window.labels;
    for (std::size_t t = 0; t + 1 < text.size(); ++t) {
      out.tokens[t] = text[t];
      out.labels[t] = text[t + 1];
    }
    for (const Index s : starts) {
      if (s > 0) {
        out.labels[static_cast<std::size_t>(s - 1)] = kIgnore;
      }
    }
    if (!starts.empty() && starts.back() == window.labels) {
      starts.pop_back();
    }
  }

  std::vector<DataIdentity> identity() const override {
    std::vector<DataIdentity> out;
    if (corpus_) {
      out.push_back(corpus_->identity());
      out.back().field = "task.path";
    }
    if (valid_) {
      out.push_back(valid_->identity());
      out.back().field = "task.valid_path";
    }
    return out;
  }

 private:
  const ByteCorpus& corpus(Split split) const {
    return split == Split::kTrain || !valid_ ? *corpus_ : *valid_;
  }

  void fits(const Config& config, Split split, Index length) const {
    const bool training = split == Split::kTrain;
    const std::string& path = training || !valid_ ? config.text.path : config.valid_path;
    const char* kind = training ? "training" : "validation";
    const Index bytes = corpus(split).bytes(split), stretch = corpus(split).longest_stretch(split);
    LS_CHECK(
        bytes > length, kConfig,
        "'{}' has {} bytes of {} text, too short for one window of {} and the byte after it; give "
        "a longer text or a shorter length{}",
        path, bytes, kind, length, training || valid_ ? "" : ", or raise valid_share");
    const char* setting = !training && !config.test_lengths.empty() ? "test_lengths"
                          : config.lengths.max_length               ? "max_length"
                                                                    : "length";
    const char* other = valid_ || training                      ? "give longer files"
                        : config.text.split == HeldOut::kBlocks ? "hold out longer stretches with "
                                                                  "split: tail or split: files"
                                                                : "raise valid_share";
    LS_CHECK(stretch >= length, kConfig,
             "{}: a window of {} bytes is longer than every stretch of the {} text of '{}', the "
             "longest has {}, and states begin anew at each; lower {} or {}",
             setting, length, kind, path, stretch, setting, other);
  }

  /// Which bytes every test length scores: of all windows of the longest length `most`, 0 for all
  /// of the text.
  void choose_scored(Index longest, Index most) {
    const Index bytes = corpus(Split::kValid).bytes(Split::kValid);
    const bool all = most == 0 || most * longest >= bytes - 1;
    segment_ = all || info_.order == Order::kStream ? 0 : longest;
    segments_ = all ? 0 : most;
    scored_ = all ? bytes - 1 : most * longest;
  }
  Index windows_of(Index length) const {
    const auto windows = [&](Index bytes) { return (bytes + length - 1) / length; };
    return segment_ > 0 ? segments_ * windows(segment_) : windows(scored_);
  }

  struct Window {
    Index begin;   // on the tape
    Index labels;  // at most the window's length; what is left of it stays empty
  };
  Window window(const ExampleKey& key) const {
    const Index bytes = corpus(key.split).bytes(key.split);
    const Index length = key.length;
    if (key.split != Split::kTrain) {
      if (segment_ == 0) {
        const Index begin = key.index * length;
        return {begin, std::min(length, scored_ - begin)};
      }
      const Index each = (segment_ + length - 1) / length;
      const Index within = key.index % each * length;
      const Index segment = key.index / each * (bytes / segment_) / segments_;
      return {segment * segment_ + within, std::min(length, segment_ - within)};
    }
    if (info_.order == Order::kStream) {
      const Index turn = Rng(args().seed, "bytes/stream").below(bytes);
      return {(turn + bytes * key.row / key.rows + key.before) % bytes, length};
    }
    if (slices(Split::kTrain)[0].max_length > slices(Split::kTrain)[0].length) {
      return {rng(key).below(bytes), length};
    }
    // Every epoch covers the text once, in windows cut at another phase and in another order.
    const Index windows = bytes / length;
    const auto epoch = static_cast<std::uint64_t>(key.index / windows);
    const Index phase = Rng(args().seed, "bytes/phase", epoch).below(length);
    const Permutation order(windows, args().seed, stream_id("bytes/windows"), epoch);
    return {(phase + order(key.index % windows) * length) % bytes, length};
  }

  // What validation scores: the first `scored_` bytes after the first of the tape, or `segments_`
  // segments of `segment_` bytes spread over it.
  Index segment_ = 0, segments_ = 0, scored_ = 0;
  std::unique_ptr<ByteCorpus> corpus_;  // none when only valid_ is read
  std::unique_ptr<ByteCorpus> valid_;
};

LS_REGISTER(Task, Bytes, "bytes", "language modelling on the bytes of files");

}  // namespace
}  // namespace ls::data
