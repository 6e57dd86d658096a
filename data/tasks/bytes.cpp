// Byte-level language modelling over a file or a directory of files. Windows of the training text,
// cut from one tape on which every document begins anew; labels are the bytes that follow, none
// across the end of a document.
#include <algorithm>

#include "core/base/error.h"
#include "data/bytes/corpus.h"
#include "data/length_plan.h"
#include "data/task.h"

namespace ls::data {
namespace {

class Bytes final : public Task {
 public:
  struct Config {
    std::string path;
    std::string valid_path;
    std::vector<std::string> suffixes;
    double valid_share = 0.05;
    Index split_salt = 0;
    LengthPlan lengths{.length = 256};
    std::vector<Index> test_lengths;
    Index test_windows = 0;

    template <class F>
    void fields(F& f) {
      f("path", path,
        {.help = "file, or directory searched through; a file is a document",
         .required = true,
         .min_size = 1,
         .hashed = false,
         .file = true});
      f("valid_path", valid_path,
        {.help = "text to validate on; empty: blocks of 8 KiB held out of path",
         .hashed = false,
         .file = true});
      f("suffixes", suffixes, {.help = "keep only files whose names end so; empty: all"});
      f("valid_share", valid_share,
        {.help = "share of the blocks held out", .above = 0, .below = 1});
      f("split_salt", split_salt, {.help = "another number holds out other blocks", .min = 0});
      lengths.fields(f);
      f("test_lengths", test_lengths,
        {.help = "bytes per validation window; empty: as in training", .min = 1});
      f("test_windows", test_windows,
        {.help = "most windows of each length, spread over the validation text; 0: all", .min = 0});
    }
  };

  Bytes(const Config& config, const TaskArgs& args) : Task("bytes", args) {
    if (args.training || config.valid_path.empty()) {
      corpus_ = std::make_unique<ByteCorpus>(
          CorpusOptions{.path = config.path,
                        .suffixes = config.suffixes,
                        .valid_share = config.valid_path.empty() ? config.valid_share : 0,
                        .salt = static_cast<std::uint64_t>(config.split_salt)});
      info_.summary = corpus_->summary();
    }
    info_.vocab_in = info_.classes = 256;
    info_.order = args.stream ? Order::kStream : Order::kFresh;
    info_.metrics = {"bpb", "tok_acc"};
    if (!config.valid_path.empty()) {
      valid_ = std::make_unique<ByteCorpus>(
          CorpusOptions{.path = config.valid_path, .suffixes = config.suffixes, .valid_share = 1});
      info_.summary += (corpus_ ? "; " : "") + ("validation text: " + valid_->summary());
    }

    const Index longest = config.lengths.longest();
    LS_CHECK(!args.stream || longest == config.lengths.length, kConfig,
             "bytes: rows that continue from step to step need one length, not {} to {}; leave out "
             "max_length",
             config.lengths.length, longest);
    if (args.training) {
      fits(config.path, Split::kTrain, longest);
    }
    add_slice(Split::kTrain, config.lengths.slice());
    const std::vector<Index> lengths =
        config.test_lengths.empty() ? std::vector<Index>{longest} : config.test_lengths;
    for (const Index length : lengths) {
      fits(valid_ ? config.valid_path : config.path, Split::kValid, length);
      const Index windows = corpus(Split::kValid).bytes(Split::kValid) / length;
      const Index most = config.test_windows > 0 ? config.test_windows : windows;
      add_slice(Split::kValid, fixed_length_slice(length, std::min(windows, most)));
    }
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    std::vector<std::uint8_t> text(static_cast<std::size_t>(key.length + 1));
    std::vector<Index>& starts = *out.document_starts;
    corpus(key.split).read(key.split, position(key), text, starts);
    for (std::size_t t = 0; t < out.tokens.size(); ++t) {
      out.tokens[t] = text[t];
      out.labels[t] = text[t + 1];
    }
    for (const Index s : starts) {
      if (s > 0) {
        out.labels[static_cast<std::size_t>(s - 1)] = kIgnore;
      }
    }
    if (!starts.empty() && starts.back() == key.length) {
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

  void fits(const std::string& path, Split split, Index length) const {
    const Index bytes = corpus(split).bytes(split);
    LS_CHECK(
        bytes > length, kConfig,
        "'{}' has {} bytes of {} text, too short for one window of {} and the byte after it; give "
        "a longer text or a shorter length{}",
        path, bytes, split == Split::kTrain ? "training" : "validation", length,
        split == Split::kValid && !valid_ ? ", or raise valid_share" : "");
  }

  /// Where on the tape an example begins.
  Index position(const ExampleKey& key) const {
    const Index bytes = corpus(key.split).bytes(key.split);
    const Index windows = bytes / key.length;
    if (key.split != Split::kTrain) {
      const Index examples = slices(key.split)[static_cast<std::size_t>(key.slice)].examples;
      return key.index * windows / examples * key.length;
    }
    if (info_.order == Order::kStream) {
      const Index turn = Rng(args().seed, "bytes/stream").below(bytes);
      return (turn + bytes * key.row / key.rows + key.step * key.length) % bytes;
    }
    if (slices(Split::kTrain)[0].max_length > slices(Split::kTrain)[0].length) {
      return rng(key).below(bytes);
    }
    // Every epoch covers the text once, in windows cut at another phase and in another order.
    const auto epoch = static_cast<std::uint64_t>(key.index / windows);
    const Index phase = Rng(args().seed, "bytes/phase", epoch).below(key.length);
    const Permutation order(windows, args().seed, stream_id("bytes/windows"), epoch);
    return (phase + order(key.index % windows) * key.length) % bytes;
  }

  std::unique_ptr<ByteCorpus> corpus_;  // none when only valid_ is read
  std::unique_ptr<ByteCorpus> valid_;
};

LS_REGISTER(Task, Bytes, "bytes", "language modelling on the bytes of files");

}  // namespace
}  // namespace ls::data
