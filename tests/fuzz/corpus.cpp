// Corpora: any folder of any files is refused or laid out so that the splits together are the text,
// and files that change beneath a reader are an error at most.
#include <algorithm>
#include <map>
#include <thread>

#include "core/config/yaml.h"
#include "data/bytes/corpus.h"
#include "tests/fuzz/fuzz.h"

namespace ls::fuzz {
namespace {

namespace fs = std::filesystem;
using data::ByteCorpus;
using data::Split;

struct TaskHolder {
  Component<data::Task> task;
  template <class F>
  void fields(F& f) {
    f("task", task, {.help = "task"});
  }
};

std::size_t random_size(Rng& rng) {
  static const std::vector<std::size_t> sizes = {0, 1, 2, 100, 8191, 8192, 8193, 16384, 30000};
  return rng.bernoulli(0.7) ? pick(rng, sizes) : below(rng, 40000);
}

std::string random_bytes(Rng& rng, std::size_t n) {
  std::string out(n, '\0');
  for (char& c : out) {
    c = static_cast<char>(rng.next_u32());
  }
  return out;
}

/// Files by path within the folder.
std::map<std::string, std::string> random_folder(const fs::path& root, Rng& rng) {
  static const std::vector<std::string> names = {
      "a",       "b.txt",  "c.md",     "sub/a",      "sub/b.txt",  "sub/deep/z",
      ".hidden", ".git/x", "\xff\xfe", "with space", "line\nfeed", "sub/\xc3\xa9"};
  std::map<std::string, std::string> files;
  for (Index i = rng.below(7); i > 0; --i) {
    const std::string name = pick(rng, names);
    files[name] = random_bytes(rng, random_size(rng));
    write_bytes(root / name, files[name]);
  }
  std::error_code ignored;
  if (rng.bernoulli(0.1)) {
    fs::create_symlink("nowhere", root / "dangling", ignored);
    fs::create_symlink(".", root / "loop", ignored);
  }
  return files;
}

std::string tape(const ByteCorpus& corpus, Split split, std::vector<Index>& starts) {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(corpus.bytes(split)));
  if (!out.empty()) {
    corpus.read(split, 0, out, starts);
  }
  return {out.begin(), out.end()};
}

/// The splits, put together by stretches, are the text.
void check_tapes(const ByteCorpus& corpus, const std::map<std::string, std::string>& files,
                 const data::CorpusOptions& options, Rng& rng) {
  std::size_t total = 0;
  for (const auto& [name, text] : files) {
    const std::string file = fs::path(name).filename().string();
    const bool hidden = name.front() == '.' || file.front() == '.';
    const bool wanted = options.suffixes.empty() || file.ends_with(options.suffixes[0]);
    total += hidden || !wanted ? 0 : text.size();
  }
  const auto bytes = [&](Split s) { return static_cast<std::size_t>(corpus.bytes(s)); };
  LS_PROMISE(bytes(Split::kTrain) + bytes(Split::kValid) == total);
  std::map<char, std::size_t> want, have;
  for (const Split split : {Split::kTrain, Split::kValid}) {
    std::vector<Index> starts;
    const std::string text = tape(corpus, split, starts);
    LS_PROMISE(text.empty() || starts.front() == 0);
    for (std::size_t s = 0; s < starts.size(); ++s) {
      const auto begin = static_cast<std::size_t>(starts[s]);
      const std::size_t end =
          s + 1 < starts.size() ? static_cast<std::size_t>(starts[s + 1]) : text.size();
      const std::string stretch = text.substr(begin, end - begin);
      const bool found = std::ranges::any_of(
          files, [&](const auto& file) { return file.second.find(stretch) != std::string::npos; });
      LS_PROMISE(found);
    }
    if (text.empty()) {
      continue;
    }
    // A window anywhere is a window of the tape, which goes round.
    const std::size_t at = below(rng, text.size());
    std::vector<std::uint8_t> window(1 + below(rng, 2 * text.size()));
    starts.clear();
    corpus.read(split, static_cast<Index>(at), window, starts);
    for (std::size_t i = 0; i < window.size(); ++i) {
      LS_PROMISE(static_cast<char>(window[i]) == text[(at + i) % text.size()]);
    }
  }
}

data::HeldOut any_split(Rng& rng) {
  return static_cast<data::HeldOut>(rng.below(std::ssize(EnumNames<data::HeldOut>::kNames)));
}

/// Examples of the task over the same folder.
void check_task(const fs::path& root, Rng& rng) {
  const Index length = 1 + rng.below(rng.bernoulli(0.2) ? 40000 : 300);
  const std::string yaml = fmt::format(
      "task: {{name: bytes, path: '{}', length: {}, test_windows: {}, split: {}, "
      "valid_share: {}, split_salt: {}}}",
      root.string(), length, rng.below(4), enum_name(any_split(rng)), rng.uniform(1e-6, 0.999),
      rng.below(1000));
  const TaskHolder holder = [&] {
    try {
      return read_config_text<TaskHolder>(yaml);
    } catch (const Error& e) {  // ours, not the folder's
      LS_FAIL(kInternal, "{}", e.what());
    }
  }();
  const auto task =
      data::make_task(holder.task, {.seed = rng.next_u64(), .stream = rng.bernoulli(0.3)});
  for (int i = 0; i < 20; ++i) {
    const Split split = rng.bernoulli(0.5) ? Split::kTrain : Split::kValid;
    const data::Slice slice = task->slices(split).front();
    const auto t = static_cast<std::size_t>(slice.length);
    std::vector<std::int64_t> tokens(t, -1), labels(t, data::kIgnore);
    std::vector<Index> starts;
    Index used = slice.length;
    data::ExampleKey key{.split = split, .length = slice.length};
    key.index = rng.below(slice.examples > 0 ? slice.examples : 1000000);
    key.rows = 1 + rng.below(5);
    key.row = rng.below(key.rows);
    key.step = rng.below(1000000);
    task->sample(key,
                 {.tokens = tokens, .labels = labels, .document_starts = &starts, .used = &used});
    LS_PROMISE(0 <= used && used <= slice.length);
    LS_PROMISE(std::ranges::all_of(tokens, [](std::int64_t x) { return x >= 0 && x < 256; }));
    LS_PROMISE(std::ranges::all_of(
        labels, [](std::int64_t x) { return x == data::kIgnore || (x >= 0 && x < 256); }));
    LS_PROMISE(std::ranges::is_sorted(starts));
    LS_PROMISE(starts.empty() || (starts.front() >= 0 && starts.back() < slice.length));
  }
}

/// Reads while another thread cuts, grows, removes and replaces the files.
void read_changing_files(const ByteCorpus& corpus, const fs::path& root,
                         const std::map<std::string, std::string>& files, Rng& rng) {
  Rng other(rng.next_u64());
  std::thread writer([&] {
    for (int i = 0; i < 30; ++i) {
      const auto file = std::next(files.begin(), other.below(static_cast<Index>(files.size())));
      std::error_code ignored;
      const fs::path path = root / file->first;
      if (other.bernoulli(0.2)) {
        fs::remove(path, ignored);
      } else if (other.bernoulli(0.3)) {
        write_bytes(path, file->second);
      } else {
        fs::resize_file(path, below(other, 2 * file->second.size() + 1), ignored);
      }
    }
  });
  std::vector<std::uint8_t> out(5000);
  std::vector<Index> starts;
  for (int i = 0; i < 30; ++i) {
    try {
      corpus.read(Split::kTrain, rng.below(corpus.bytes(Split::kTrain)), out, starts);
      corpus.identity();
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kIo) {
        writer.join();
        throw;
      }
    }
  }
  writer.join();
}

}  // namespace

bool run_case(Rng& rng) {
  const fs::path root = scratch() / "corpus";
  fs::remove_all(root);
  fs::create_directories(root);
  const std::map<std::string, std::string> files = random_folder(root, rng);
  data::CorpusOptions options{.path = root.string(), .salt = rng.next_u64()};
  static const std::vector<double> shares = {0, 1, 0.05, 0.5, 0.999, 1e-9};
  options.valid_share = pick(rng, shares);
  options.split = any_split(rng);
  if (rng.bernoulli(0.3)) {
    options.suffixes = {rng.bernoulli(0.5) ? ".txt" : "a"};
  }
  try {
    const ByteCorpus corpus(options);
    check_tapes(corpus, files, options, rng);
    const data::DataIdentity identity = corpus.identity();
    LS_PROMISE(identity == ByteCorpus(options).identity());
    if (options.suffixes.empty()) {
      check_task(root, rng);
    }
    if (corpus.bytes(Split::kTrain) > 0 && rng.bernoulli(0.3)) {
      read_changing_files(corpus, root, files, rng);
    }
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kConfig && e.kind() != ErrorKind::kIo) {
      throw;
    }
    return false;
  }
  return true;
}

}  // namespace ls::fuzz
