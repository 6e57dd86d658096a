#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "data/bytes/corpus.h"
#include "data/prefetch.h"
#include "tests/unit/data/data_support.h"

using namespace ls;
using namespace ls::data;
namespace fs = std::filesystem;

namespace {
constexpr Index kBlock = ByteCorpus::kBlock;

class TempDir {
 public:
  TempDir() {
    std::string pattern = (fs::temp_directory_path() / "longscan_bytes_XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string str() const { return path_.string(); }
  std::string write(const std::string& name, const std::string& text) const {
    const fs::path file = path_ / name;
    fs::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << text;
    return file.string();
  }

 private:
  fs::path path_;
};

/// Text in which every run of 8 bytes names its own place: document letter and offset.
std::string ruler(char document, Index bytes) {
  std::string text;
  for (Index i = 0; static_cast<Index>(text.size()) < bytes; ++i) {
    text += fmt::format("{}{:07x}", document, i);
  }
  text.resize(static_cast<std::size_t>(bytes));
  return text;
}
/// Offset in its document of the 8 aligned bytes at `at`.
Index offset_at(const std::vector<std::uint8_t>& text, std::size_t at) {
  return 8 * std::stoll(std::string(text.begin() + static_cast<std::ptrdiff_t>(at) + 1,
                                    text.begin() + static_cast<std::ptrdiff_t>(at) + 8),
                        nullptr, 16);
}
std::vector<std::uint8_t> whole(const ByteCorpus& corpus, Split split, std::vector<Index>& starts) {
  std::vector<std::uint8_t> text(static_cast<std::size_t>(corpus.bytes(split)));
  corpus.read(split, 0, text, starts);
  return text;
}
std::string bytes_yaml(const std::string& path, const std::string& more) {
  return fmt::format("{{name: bytes, path: \"{}\", {}}}", path, more);
}
}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("corpus: blocks of 8 KiB go to one split each, and together they are the text") {
    const TempDir dir;
    const Index size = 40 * kBlock + 100;
    const std::string path = dir.write("a.txt", ruler('a', size));
    const ByteCorpus corpus({.path = path, .valid_share = 0.25});
    CHECK(corpus.bytes(Split::kTrain) + corpus.bytes(Split::kValid) == size);
    std::vector<Index> blocks[2];
    for (const Split split : {Split::kTrain, Split::kValid}) {
      std::vector<Index> starts;
      const auto text = whole(corpus, split, starts);
      REQUIRE(!starts.empty());
      CHECK(starts[0] == 0);
      Index next = -1;
      for (std::size_t at = 0; at + 8 <= text.size(); at += 8) {
        const Index offset = offset_at(text, at);
        if (offset % kBlock == 0) {
          blocks[split == Split::kValid].push_back(offset / kBlock);
        }
        // Stretches begin exactly where the text does not go on.
        const bool start = std::binary_search(starts.begin(), starts.end(), static_cast<Index>(at));
        CHECK(start == (offset != next));
        next = offset + 8;
      }
    }
    CHECK(blocks[1].size() >= 3);
    CHECK(blocks[1].size() <= 20);
    std::vector<Index> all = blocks[0];
    all.insert(all.end(), blocks[1].begin(), blocks[1].end());
    std::sort(all.begin(), all.end());
    for (std::size_t b = 0; b < 41; ++b) {
      REQUIRE(all.at(b) == static_cast<Index>(b));
    }
    CHECK(all.size() == 41);

    // Other salts hold out other blocks; the split does not hang on the file's place or length.
    const ByteCorpus other({.path = path, .valid_share = 0.25, .salt = 1});
    std::vector<Index> starts, other_starts;
    CHECK(whole(corpus, Split::kValid, starts) != whole(other, Split::kValid, other_starts));
    const std::string longer = dir.write("b.txt", ruler('a', size + 3 * kBlock));
    const ByteCorpus grown({.path = longer, .valid_share = 0.25});
    const auto was = whole(corpus, Split::kValid, starts = {});
    const auto is = whole(grown, Split::kValid, starts = {});
    REQUIRE(is.size() >= was.size() - kBlock);
    CHECK(std::equal(was.begin(), was.begin() + static_cast<std::ptrdiff_t>(was.size()) - kBlock,
                     is.begin()));
  }

  TEST_CASE("corpus: both splits get a block of the shortest text that has two") {
    const TempDir dir;
    const std::string path = dir.write("a", ruler('a', kBlock + 1));
    for (const double share : {0.0001, 0.5, 0.9999}) {
      const ByteCorpus corpus({.path = path, .valid_share = share});
      CHECK(corpus.bytes(Split::kTrain) > 0);
      CHECK(corpus.bytes(Split::kValid) > 0);
    }
    CHECK(ByteCorpus({.path = path}).bytes(Split::kTrain) == kBlock + 1);
    CHECK(ByteCorpus({.path = path, .valid_share = 1}).bytes(Split::kValid) == kBlock + 1);
  }

  TEST_CASE("corpus: a directory's files are documents in order of name; some are left out") {
    const TempDir dir;
    dir.write("b/z.txt", "bz");
    dir.write("a.txt", "a1");
    dir.write("b/c/y.txt", "by");
    dir.write("b/skip.md", "no");
    dir.write(".hidden", "no");
    dir.write(".git/x.txt", "no");
    dir.write("empty.txt", "");
    fs::create_symlink(dir / "nowhere", dir / "dangling.txt");
    const ByteCorpus corpus({.path = dir.str(), .suffixes = {".txt"}});
    CHECK(corpus.documents() == 3);
    std::vector<Index> starts;
    const auto text = whole(corpus, Split::kTrain, starts);
    CHECK(std::string(text.begin(), text.end()) == "a1bybz");
    CHECK(starts == std::vector<Index>{0, 2, 4});
    // Reading goes round at the end.
    std::vector<std::uint8_t> piece(7);
    corpus.read(Split::kTrain, 5, piece, starts = {});
    CHECK(std::string(piece.begin(), piece.end()) == "za1bybz");
    CHECK(starts == std::vector<Index>{1, 3, 5});
  }

  TEST_CASE("corpus: more documents than stay open") {
    const TempDir dir;
    std::string want;
    for (int i = 0; i < 1100; ++i) {
      want +=
          dir.write(fmt::format("{:04}", i), fmt::format("{:04}", i)).substr(dir.str().size() + 1);
    }
    const ByteCorpus corpus({.path = dir.str()});
    for (int round = 0; round < 2; ++round) {
      std::vector<Index> starts;
      const auto text = whole(corpus, Split::kTrain, starts);
      CHECK(std::string(text.begin(), text.end()) == want);
      CHECK(starts.size() == 1100);
    }
  }

  TEST_CASE("bytes: labels are the next bytes, none across documents, each byte once an epoch") {
    const TempDir dir;
    std::string text;
    for (int i = 0; i < 9; ++i) {
      const std::string document(static_cast<std::size_t>(3 + 5 * i), static_cast<char>('a' + i));
      dir.write(fmt::format("{}.txt", i), document);
      text += document;
    }
    dir.write("v/valid.txt", std::string(100, 'v'));
    fs::rename(dir / "v", dir.str() + "_v");
    const Index window = 16;
    const auto task = task_from(bytes_yaml(
        dir.str(), fmt::format("valid_path: \"{}\", length: {}", dir.str() + "_v", window)));
    CHECK(task->info().vocab_in == 256);
    CHECK(task->info().metrics[0] == "bpb");
    CHECK(task->info().summary.find("9 documents") != std::string::npos);
    const auto bytes = static_cast<Index>(text.size());
    const Index windows = bytes / window;
    std::set<std::vector<Index>> orders;
    for (Index epoch = 0; epoch < 4; ++epoch) {
      std::map<std::int64_t, Index> seen;
      std::vector<Index> order;
      for (Index i = 0; i < windows; ++i) {
        const Example e = example(*task, {.index = epoch * windows + i});
        for (std::size_t t = 0; t < e.tokens.size(); ++t) {
          ++seen[e.tokens[t]];
          order.push_back(e.tokens[t]);
          const bool start =
              std::binary_search(e.starts.begin(), e.starts.end(), static_cast<Index>(t));
          if (t > 0) {
            // Every document is one letter: a document starts exactly where the letter changes.
            CHECK(start == (e.tokens[t] != e.tokens[t - 1]));
            CHECK((e.labels[t - 1] == kIgnore) == start);
          }
          if (e.labels[t] != kIgnore) {
            CHECK(e.labels[t] == e.tokens[t]);
          }
        }
      }
      orders.insert(order);
      Index total = 0, missing = 0;
      for (int i = 0; i < 9; ++i) {
        const Index count = seen['a' + i];
        CHECK(count <= 3 + 5 * i);
        total += count;
        missing += 3 + 5 * i - count;
      }
      CHECK(total == windows * window);
      CHECK(missing == bytes % window);
    }
    CHECK(orders.size() == 4);
    const Example v = example(*task, {.split = Split::kValid});
    CHECK(v.tokens == std::vector<std::int64_t>(16, 'v'));
    CHECK(task->slices(Split::kValid)[0].examples == 7);  // the last one is short
    CHECK(task->slices(Split::kTest).empty());
    fs::remove_all(dir.str() + "_v");
  }

  TEST_CASE("bytes: no training window holds a byte of a validation block") {
    const TempDir dir;
    const std::string path = dir.write("a", ruler('a', 30 * kBlock));
    const ByteCorpus corpus({.path = path, .valid_share = 0.3});
    std::vector<Index> starts;
    const auto held_out = whole(corpus, Split::kValid, starts);
    std::set<Index> valid_blocks;
    for (std::size_t at = 0; at + 8 <= held_out.size(); at += kBlock) {
      valid_blocks.insert(offset_at(held_out, at) / kBlock);
    }
    for (const bool stream : {false, true}) {
      const auto task = task_from(bytes_yaml(path, "valid_share: 0.3, length: 1000"),
                                  {.seed = 1, .stream = stream});
      const Batcher batcher(*task, {.batch = 4, .seed = 1});
      for (Index step = 0; step < 120; ++step) {
        const Batch b = batcher.make(step);
        const auto tokens = b.tokens.to_vector<std::int64_t>();
        const auto labels = b.labels.to_vector<std::int64_t>();
        for (std::size_t r = 0; r < 4; ++r) {
          // Inputs with the one label past them, as text.
          std::vector<std::uint8_t> text(
              tokens.begin() + static_cast<std::ptrdiff_t>(r * 1000),
              tokens.begin() + static_cast<std::ptrdiff_t>(r * 1000 + 1000));
          if (labels[r * 1000 + 999] != kIgnore) {
            text.push_back(static_cast<std::uint8_t>(labels[r * 1000 + 999]));
          }
          for (std::size_t t = 0; t + 8 <= text.size(); ++t) {
            if (text[t] == 'a') {
              REQUIRE(valid_blocks.count(offset_at(text, t) / kBlock) == 0);
            }
          }
        }
      }
    }
  }

  TEST_CASE("bytes: the rows of a stream go on where they ended, and begin anew with documents") {
    const TempDir dir;
    for (int i = 0; i < 5; ++i) {
      dir.write(fmt::format("{}", i), ruler(static_cast<char>('p' + i), 700 + 333 * i));
    }
    dir.write("6", ruler('v', 2 * kBlock));
    const auto task = task_from(bytes_yaml(dir.str(), "valid_share: 0.01, length: 64"),
                                {.seed = 3, .stream = true});
    const Index rows = 3;
    const Batcher batcher(*task, {.batch = rows, .seed = 1});
    const ByteCorpus corpus({.path = dir.str(), .valid_share = 0.01});
    std::vector<Index> tape_starts;
    const auto tape = whole(corpus, Split::kTrain, tape_starts);
    const auto n = static_cast<Index>(tape.size());
    std::vector<Index> at(3, -1);
    std::vector<std::int64_t> promised(3, kIgnore);
    const Index turn = n / 64 + 2;
    for (Index step = 0; step < turn; ++step) {
      const Batch b = batcher.make(step);
      CHECK(b.continues == (step > 0));
      const auto tokens = b.tokens.to_vector<std::int64_t>();
      const auto labels = b.labels.to_vector<std::int64_t>();
      for (Index r = 0; r < rows; ++r) {
        const auto row = static_cast<std::size_t>(r);
        if (step == 0) {  // find the row's place on the tape
          for (Index p = 0; p < n && at[row] < 0; ++p) {
            bool here = true;
            for (Index t = 0; t < 64 && here; ++t) {
              here = tokens[static_cast<std::size_t>(r * 64 + t)] ==
                     tape[static_cast<std::size_t>((p + t) % n)];
            }
            at[row] = here ? p : -1;
          }
          REQUIRE(at[row] >= 0);
        }
        std::vector<Index> starts;
        for (Index t = 0; t < 64; ++t) {
          const Index p = (at[row] + t) % n;
          const auto i = static_cast<std::size_t>(r * 64 + t);
          REQUIRE(tokens[i] == tape[static_cast<std::size_t>(p)]);
          const bool start = std::binary_search(tape_starts.begin(), tape_starts.end(), p);
          if (start) {
            starts.push_back(t);
          }
          if (t == 0 && step > 0) {  // the label past the last window was this token
            CHECK(promised[row] == (start ? kIgnore : tokens[i]));
          }
        }
        CHECK((b.documents.empty() ? std::vector<Index>{} : b.documents[row]) == starts);
        promised[row] = labels[static_cast<std::size_t>(r * 64 + 63)];
        at[row] = (at[row] + 64) % n;
      }
    }
    // The same on two ranks.
    const Batcher second(*task, {.batch = rows, .seed = 1, .rank = 1, .ranks = 2});
    const Batch part = second.make(7), want = batcher.make(7);
    CHECK(part.rows == 2);
    CHECK(part.tokens.to_vector<std::int64_t>() ==
          want.tokens.slice(0, 1, 3).to_vector<std::int64_t>());
    CHECK_THROWS_WITH_AS(
        task_from(bytes_yaml(dir.str(), "length: 64, max_length: 65"), {.seed = 1, .stream = true}),
        doctest::Contains("max_length"), Error);
  }

  TEST_CASE("bytes: lengths drawn from a range, validation windows spread over the text") {
    const TempDir dir;
    const std::string path = dir.write("a", ruler('a', 20 * kBlock));
    const auto task = task_from(
        bytes_yaml(path, "length: 10, max_length: 20, test_lengths: [100, 1000], test_windows: 8"));
    const Batcher batcher(*task, {.batch = 2, .seed = 1});
    std::set<Index> lengths;
    for (Index step = 0; step < 200; ++step) {
      lengths.insert(batcher.make(step).length);
    }
    CHECK(lengths.size() == 11);
    const auto& slices = task->slices(Split::kValid);
    REQUIRE(slices.size() == 2);
    CHECK(slices[0].examples == 80);
    const ByteCorpus corpus({.path = path, .valid_share = 0.05});
    CHECK(slices[1].examples == std::min<Index>(8, corpus.bytes(Split::kValid) / 1000));
    std::set<std::vector<std::int64_t>> seen;
    for (Index i = 0; i < 8; ++i) {
      seen.insert(example(*task, {.split = Split::kValid, .index = i}).tokens);
    }
    CHECK(seen.size() == 8);
  }

  TEST_CASE("bytes: every test length scores the same bytes, the tail among them") {
    const TempDir dir;
    std::string text;
    std::uint64_t random = 1;
    for (int i = 0; i < 30000; ++i) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      text += static_cast<char>(random >> 33);
    }
    const std::string path = dir.write("a", text);
    const auto scored = [](const Task& task, std::size_t slice) {
      std::vector<std::int64_t> labels;
      for (Index i = 0; i < task.slices(Split::kValid)[slice].examples; ++i) {
        const Example e =
            example(task, {.split = Split::kValid, .slice = static_cast<Index>(slice), .index = i});
        std::ranges::copy_if(e.labels, std::back_inserter(labels),
                             [](std::int64_t l) { return l != kIgnore; });
      }
      return labels;
    };
    for (const bool stream : {false, true}) {
      for (const Index windows : {0, 1, 3, 5, 1000}) {
        CAPTURE(stream);
        CAPTURE(windows);
        const auto task = task_from(
            bytes_yaml(path, fmt::format("split: tail, valid_share: 0.2, length: 64, test_lengths: "
                                         "[1, 16, 100, 999, 1000], test_windows: {}",
                                         windows)),
            {.seed = 1, .stream = stream});
        const auto all = scored(*task, 4);
        const bool whole = windows == 0 || windows * 1000 >= 5999;
        CHECK(std::ssize(all) == (whole ? 5999 : windows * 1000));
        if (whole) {
          for (std::size_t i = 0; i < all.size(); ++i) {
            REQUIRE(all[i] == static_cast<std::uint8_t>(text[24001 + i]));
          }
        }
        for (std::size_t slice = 0; slice < task->slices(Split::kValid).size(); ++slice) {
          CAPTURE(slice);
          CHECK(scored(*task, slice) == all);
        }
        CHECK(task->slices(Split::kValid).size() == (stream ? 6 : 5));
      }
    }
  }

  TEST_CASE("bytes: held out is the tail of every file, or whole files") {
    const TempDir dir;
    for (int i = 0; i < 20; ++i) {
      dir.write(fmt::format("text/{:02}", i),
                std::string(static_cast<std::size_t>(500 + 10 * i), static_cast<char>('a' + i)));
    }
    std::vector<Index> starts;
    const ByteCorpus tails({.path = dir / "text", .split = HeldOut::kTail, .valid_share = 0.1});
    const auto tail = whole(tails, Split::kValid, starts);
    CHECK(starts.size() == 20);
    for (int i = 0; i < 20; ++i) {
      CHECK(std::ranges::count(tail, 'a' + i) == (500 + 10 * i) / 10);
    }
    CHECK(tails.longest_stretch(Split::kValid) == 69);
    CHECK(tails.longest_stretch(Split::kTrain) == 621);
    const ByteCorpus files({.path = dir / "text", .split = HeldOut::kFiles, .valid_share = 0.3});
    const auto held = whole(files, Split::kValid, starts = {});
    const auto kept = whole(files, Split::kTrain, starts = {});
    int held_files = 0;
    for (int i = 0; i < 20; ++i) {
      const Index size = 500 + 10 * i;
      const Index here = std::ranges::count(held, 'a' + i);
      CHECK((here == 0 || here == size));
      CHECK(here + std::ranges::count(kept, 'a' + i) == size);
      held_files += here > 0;
    }
    CHECK(held_files > 0);
    CHECK(held_files < 15);
    CHECK_THROWS_WITH_AS(
        ByteCorpus({.path = dir / "text/00", .split = HeldOut::kFiles, .valid_share = 0.3}),
        doctest::Contains("split: tail"), Error);
    CHECK_THROWS_WITH_AS(
        ByteCorpus({.path = dir / "text", .split = HeldOut::kTail, .valid_share = 0.001}),
        doctest::Contains("raise valid_share"), Error);
  }

  TEST_CASE("bytes: carried validation goes through the text row by row") {
    const TempDir dir;
    const std::string path = dir.write("a", ruler('a', 8000));
    const auto task = task_from(bytes_yaml(path, "split: tail, valid_share: 0.25, length: 64"),
                                {.seed = 1, .stream = true});
    const auto& slices = task->slices(Split::kValid);
    REQUIRE(slices.size() == 2);
    CHECK(slices[1].name == "T64.carried");
    CHECK(slices[1].examples == 32);  // 1999 labels
    const Index rows = 5;
    const Batcher batcher(*task, {.split = Split::kValid, .batch = rows});
    const Index first = 7;  // batches of the other slice
    CHECK(batcher.batches() == first + 7);
    std::vector<std::vector<std::int64_t>> labels(5);
    for (Index i = 0; i < 7; ++i) {
      const Batch b = batcher.make(first + i);
      CHECK(b.slice == 1);
      CHECK(b.rows == rows);
      CHECK(b.continues == (i > 0));
      const auto all = b.labels.to_vector<std::int64_t>();
      for (std::size_t at = 0; at < all.size(); ++at) {
        if (all[at] != kIgnore) {
          labels[at / 64].push_back(all[at]);
        }
      }
      // The same on two ranks.
      const Batcher second(*task, {.split = Split::kValid, .batch = rows, .rank = 1, .ranks = 2});
      const Batch part = second.make(first + i);
      CHECK(part.first_row == 2);
      CHECK(part.labels.to_vector<std::int64_t>() ==
            b.labels.slice(0, 2, 5).to_vector<std::int64_t>());
    }
    std::string joined;
    for (const auto& row : labels) {
      joined.append(row.begin(), row.end());
    }
    CHECK(joined == ruler('a', 8000).substr(6001));
  }

  TEST_CASE("bytes: several workers read one corpus") {
    const TempDir dir;
    for (int i = 0; i < 20; ++i) {
      dir.write(fmt::format("{}", i), ruler(static_cast<char>('a' + i), 3000 + 17 * i));
    }
    const auto task = task_from(bytes_yaml(dir.str(), "length: 50"));
    const Batcher batcher(*task, {.batch = 4, .seed = 1});
    Prefetcher ahead([&](Index step) { return batcher.make(step); }, {.depth = 8, .workers = 4});
    for (Index step = 0; step < 100; ++step) {
      REQUIRE(same(ahead.next(), batcher.make(step)));
    }
  }

  TEST_CASE("bytes: bad paths and files each have one clear error") {
    const TempDir dir;
    fs::create_directory(dir / "nothing");
    dir.write("blank/a.txt", "");
    dir.write("empty", "");
    dir.write("short", std::string(100, 'x'));
    dir.write("two_blocks", ruler('t', kBlock + 50));
    REQUIRE(::mkfifo((dir / "pipe").c_str(), 0600) == 0);
    const auto fails = [&](const std::string& name, const std::string& more, const char* message,
                           ErrorKind kind) {
      CAPTURE(name);
      CAPTURE(more);
      try {
        task_from(bytes_yaml(name.empty() ? "" : dir / name, more));
        FAIL_CHECK("no error");
      } catch (const Error& e) {
        CHECK(std::string(e.what()).find(message) != std::string::npos);
        CHECK(e.kind() == kind);
      }
    };
    fails("missing", "length: 8", "No such file", ErrorKind::kIo);
    fails("nothing", "length: 8", "no text in the directory", ErrorKind::kIo);
    fails("blank", "length: 8", "1 of them empty", ErrorKind::kIo);
    fails("two_blocks", "suffixes: [.zip], valid_path: \"" + (dir / "nothing") + "\", length: 8",
          "with the suffixes", ErrorKind::kIo);
    fails("empty", "length: 8", "is empty", ErrorKind::kIo);
    fails("pipe", "length: 8", "neither a file nor a directory", ErrorKind::kIo);
    fails("short", "length: 8", "too short to hold some out", ErrorKind::kConfig);
    fails("two_blocks", "length: 9000", "too short for one window", ErrorKind::kConfig);
    fails("two_blocks", "length: 20, test_lengths: [9000]", "validation text", ErrorKind::kConfig);
    fails("two_blocks", "length: 0", "length", ErrorKind::kConfig);
    for (int i = 0; i < 9; ++i) {
      dir.write(fmt::format("letters/{}", i), std::string(90, 'x'));
    }
    fails("letters", "length: 100, split: files",
          "length: a window of 100 bytes is longer than every", ErrorKind::kConfig);
    fails("letters", "length: 10, max_length: 91, split: files", "lower max_length or",
          ErrorKind::kConfig);
    dir.write("blocks", ruler('b', 60 * kBlock));
    fails(
        "blocks", "length: 10, valid_share: 0.1, test_lengths: [64, 32768]",
        "test_lengths: a window of 32768 bytes is longer than every stretch of the validation text",
        ErrorKind::kConfig);
    fails("blocks", "length: 10, valid_share: 0.1, test_lengths: [64, 32768]", "split: tail",
          ErrorKind::kConfig);
    fails("two_blocks", "valid_share: 1.0", "valid_share", ErrorKind::kConfig);
    fails("", "length: 8", "path", ErrorKind::kConfig);
    CHECK_THROWS_WITH_AS(task_from("{name: bytes}"), doctest::Contains("path"), Error);
    if (::geteuid() != 0) {  // root reads everything; e2e/bad_input_test.cpp tries as another user
      dir.write("locked/a", std::string(100, 'x'));
      fs::permissions(dir / "locked/a", fs::perms::none);
      fails("locked/a", "length: 8", "Permission denied", ErrorKind::kIo);
      fails("locked", "length: 8", "Permission denied", ErrorKind::kIo);
    }
    // With its own validation text a short one will do.
    CHECK(task_from(
              bytes_yaml(dir / "short", "length: 8, valid_path: \"" + (dir / "two_blocks") + "\""))
              ->slices(Split::kTrain)
              .size() == 1);
  }

  TEST_CASE("bytes: a file that shrinks, grows or goes away stops the run with its name") {
    for (const int change : {0, 1, 2}) {
      const TempDir dir;
      const std::string path = dir.write("text", ruler('a', 4 * kBlock));
      const auto task = task_from(bytes_yaml(path, "length: 64"));
      const Batcher batcher(*task, {.batch = 2, .seed = 1});
      if (change != 1) {  // also before the file is opened for the first time
        batcher.make(0);
      }
      if (change == 2) {
        fs::remove(path);
      } else {
        fs::resize_file(path, change == 0 ? 10 : 5 * kBlock);
      }
      Prefetcher ahead([&](Index step) { return batcher.make(step); }, {});
      try {
        ahead.next();
        FAIL_CHECK("no error");
      } catch (const Error& e) {
        CHECK(e.kind() == ErrorKind::kIo);
        CHECK(std::string(e.what()).find(path) != std::string::npos);
        CHECK(std::string(e.what()).find(change == 2 ? "No such file" : "has changed") !=
              std::string::npos);
      }
    }
  }

  TEST_CASE("corpus: a file that is cut while it is read is an error, not a signal") {
    const TempDir dir;
    const std::string path = dir.write("text", ruler('a', 4 * kBlock));
    const DataFile file(path, 4 * kBlock);
    std::vector<std::uint8_t> out(100);
    file.read(3 * kBlock, out);
    CHECK(std::string(out.begin(), out.end()) == ruler('a', 4 * kBlock).substr(3 * kBlock, 100));
    fs::resize_file(path, 3 * kBlock + 50);
    CHECK_THROWS_WITH_AS(file.read(3 * kBlock, out), doctest::Contains("has changed from 32768 to"),
                         Error);
    file.read(0, out);
    // Cut and grown again and again beneath a reader: an error at most.
    std::atomic<bool> done = false;
    std::thread other([&] {
      while (!done) {
        fs::resize_file(path, 0);
        fs::resize_file(path, 4 * kBlock);
      }
    });
    int failed = 0;
    for (int i = 0; i < 3000; ++i) {
      try {
        DataFile(path, 4 * kBlock).read(2 * kBlock, out);
      } catch (const Error& e) {
        CHECK(e.kind() == ErrorKind::kIo);
        ++failed;
      }
    }
    done = true;
    other.join();
  }

  TEST_CASE("corpus: its identity is what lies in it, not where it lies") {
    const TempDir dir;
    dir.write("a/x", "first");
    dir.write("a/y", "second");
    const auto identity = [&](const std::string& path) {
      return ByteCorpus({.path = dir / path}).identity();
    };
    const DataIdentity before = identity("a");
    CHECK(before.files == 2);
    CHECK(before.bytes == 11);
    fs::rename(dir / "a", dir / "moved");
    CHECK(identity("moved") == before);
    CHECK(identity("moved/x") == identity("moved/x"));
    CHECK(identity("moved/x").content != identity("moved/y").content);
    fs::copy_file(dir / "moved/x", dir / "elsewhere");  // a single file has no name
    CHECK(identity("elsewhere") == identity("moved/x"));

    dir.write("moved/y", "secund");  // the same size
    DataIdentity now = identity("moved");
    CHECK(now.content != before.content);
    CHECK(now.names == before.names);
    CHECK(now.bytes == before.bytes);
    dir.write("moved/y", "secon");
    CHECK(identity("moved").content != before.content);
    dir.write("moved/y", "second");
    CHECK(identity("moved") == before);
    fs::rename(dir / "moved/x", dir / "moved/z");  // another order of documents
    now = identity("moved");
    CHECK(now.names != before.names);
    CHECK(now.content != before.content);
    fs::rename(dir / "moved/z", dir / "moved/w");  // the same order as at first
    now = identity("moved");
    CHECK(now.names != before.names);
    CHECK(now.content == before.content);
    CHECK(now.str().find("2 files, 11 bytes, names " + now.names) != std::string::npos);
    // Two files whose border moves.
    dir.write("b/x", "firsts");
    dir.write("b/y", "econd");
    CHECK(identity("b").content != before.content);
  }
}
