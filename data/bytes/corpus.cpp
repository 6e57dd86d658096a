#include "data/bytes/corpus.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <tuple>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/log.h"

namespace ls::data {
namespace {

namespace fs = std::filesystem;

/// Files kept open at a time, well below the usual limit of a process.
constexpr std::size_t kMostOpen = 256;

std::string reason() {
  return std::strerror(errno);
}

[[noreturn]] void fail_changed(const std::string& path, Index before, Index now) {
  LS_FAIL(
      kIo,
      "'{}' has changed from {} to {} bytes during the run; train on a copy that nothing writes "
      "to",
      path, before, now);
}

Index file_size(const std::string& path) {
  struct stat info {};
  LS_CHECK(::stat(path.c_str(), &info) == 0, kIo, "cannot read '{}': {}", path, reason());
  return static_cast<Index>(info.st_size);
}

bool ends_in_one_of(const std::string& name, const std::vector<std::string>& suffixes) {
  return suffixes.empty() || std::any_of(suffixes.begin(), suffixes.end(),
                                         [&](const std::string& s) { return name.ends_with(s); });
}

struct Found {
  std::vector<std::string> names;  // relative to the directory, sorted
  Index skipped = 0;               // neither regular files nor directories
};

Found find_files(const fs::path& directory, const std::vector<std::string>& suffixes) {
  Found found;
  std::error_code error;
  fs::recursive_directory_iterator it(directory, error);
  for (const fs::recursive_directory_iterator end; !error && it != end; it.increment(error)) {
    const std::string file = it->path().filename().string();
    std::error_code ignored;  // a link to nowhere has no type
    const fs::file_status status = it->status(ignored);
    if (file.starts_with('.')) {
      if (it->is_directory(ignored)) {
        it.disable_recursion_pending();
      }
    } else if (fs::is_regular_file(status)) {
      if (ends_in_one_of(file, suffixes)) {
        found.names.push_back(it->path().lexically_relative(directory).generic_string());
      }
    } else if (!fs::is_directory(status)) {
      ++found.skipped;
    }
  }
  LS_CHECK(!error, kIo, "cannot search the directory '{}': {}", directory.string(),
           error.message());
  std::sort(found.names.begin(), found.names.end());
  return found;
}

std::string megabytes(Index bytes) {
  return fmt::format("{:.2f} MB", static_cast<double>(bytes) / 1e6);
}

}  // namespace

DataFile::DataFile(const std::string& path, Index size)
    : path_(path), size_(size), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  LS_CHECK(fd_ >= 0, kIo, "cannot open '{}': {}", path, reason());
  struct stat info {};
  const bool known = ::fstat(fd_, &info) == 0;
  const std::string why = known ? "" : reason();
  if (!known || info.st_size != size) {
    ::close(fd_);
    LS_CHECK(known, kIo, "cannot read '{}': {}", path, why);
    fail_changed(path, size, static_cast<Index>(info.st_size));
  }
}

DataFile::~DataFile() {
  ::close(fd_);
}

void DataFile::read(Index at, std::span<std::uint8_t> out) const {
  while (!out.empty()) {
    const ssize_t n = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    LS_CHECK(n >= 0, kIo, "cannot read '{}': {}", path_, reason());
    if (n == 0) {
      fail_changed(path_, size_, at);
    }
    out = out.subspan(static_cast<std::size_t>(n));
    at += n;
  }
}

std::uint64_t DataFile::checksum() const {
  using Key = std::tuple<dev_t, ino_t, Index, Index, Index, Index, Index>;
  static std::mutex mutex;
  static std::map<Key, std::uint64_t> known;
  struct stat info {};
  LS_CHECK(::fstat(fd_, &info) == 0, kIo, "cannot read '{}': {}", path_, reason());
  const Key key{info.st_dev,          info.st_ino,         info.st_size,        info.st_mtim.tv_sec,
                info.st_mtim.tv_nsec, info.st_ctim.tv_sec, info.st_ctim.tv_nsec};
  {
    const std::lock_guard lock(mutex);
    if (const auto it = known.find(key); it != known.end()) {
      return it->second;
    }
  }
  Checksum sum;
  std::vector<std::uint8_t> piece(static_cast<std::size_t>(std::min<Index>(size_, 1 << 20)));
  for (Index at = 0; at < size_; at += static_cast<Index>(piece.size())) {
    piece.resize(std::min(piece.size(), static_cast<std::size_t>(size_ - at)));
    read(at, piece);
    sum.add(piece.data(), piece.size());
  }
  const std::lock_guard lock(mutex);
  return known[key] = sum.value();
}

std::vector<ByteCorpus::Document> ByteCorpus::find_in_directory(const CorpusOptions& options) {
  const Found found = find_files(options.path, options.suffixes);
  std::vector<Document> documents;
  Index empty = 0;
  for (const std::string& name : found.names) {
    const std::string full = (fs::path(options.path) / name).string();
    LS_CHECK(::access(full.c_str(), R_OK) == 0, kIo, "cannot read '{}': {}", full, reason());
    if (const Index size = file_size(full); size > 0) {
      documents.push_back({full, name, size});
    } else {
      ++empty;
    }
  }
  LS_CHECK(!documents.empty(), kIo, "no text in the directory '{}': {} files{}, {} of them empty",
           options.path, found.names.size(),
           options.suffixes.empty() ? "" : " with the suffixes asked for", empty);
  if (empty + found.skipped > 0) {
    log_warn("some files of the corpus are left out",
             {{"path", options.path},
              {"empty", std::to_string(empty)},
              {"not_regular", std::to_string(found.skipped)}});
  }
  return documents;
}

std::vector<ByteCorpus::Document> ByteCorpus::find(const CorpusOptions& options) {
  std::error_code error;
  const fs::file_status status = fs::status(options.path, error);
  LS_CHECK(!options.path.empty(), kConfig, "bytes needs a path: a file or a directory of text");
  LS_CHECK(fs::exists(status), kIo, "cannot read '{}': {}", options.path,
           error ? error.message() : "No such file or directory");
  if (fs::is_directory(status)) {
    return find_in_directory(options);
  }
  LS_CHECK(fs::is_regular_file(status), kIo, "'{}' is neither a file nor a directory",
           options.path);
  LS_CHECK(::access(options.path.c_str(), R_OK) == 0, kIo, "cannot read '{}': {}", options.path,
           reason());
  const Index size = file_size(options.path);
  LS_CHECK(size > 0, kIo, "'{}' is empty; give a file with text in it, or a folder of such files",
           options.path);
  return {{options.path, "", size}};
}

ByteCorpus::ByteCorpus(const CorpusOptions& options)
    : documents_(find(options)), open_(documents_.size()) {
  lay_tapes(options);
}

std::uint64_t ByteCorpus::block_hash(const CorpusOptions& options, std::size_t document,
                                     Index block) const {
  const std::string& name = documents_[document].name;
  const std::uint64_t file = name.empty() ? 0 : stream_id(name);  // a single file may be renamed
  return mix64(mix64(file ^ mix64(options.salt + 1)) + static_cast<std::uint64_t>(block));
}

std::uint64_t ByteCorpus::largest_valid_hash(const CorpusOptions& options) const {
  std::uint64_t smallest = std::numeric_limits<std::uint64_t>::max(), largest = 0;
  Index count = 0;
  for (std::size_t d = 0; d < documents_.size(); ++d) {
    for (Index b = 0; b < pieces(options, d); ++b, ++count) {
      const std::uint64_t hash = block_hash(options, d, b);
      smallest = std::min(smallest, hash);
      largest = std::max(largest, hash);
    }
  }
  LS_CHECK(count >= 2 || options.split == HeldOut::kBlocks, kConfig,
           "'{}' is one file: split: files needs at least two; hold out its tail (split: tail) or "
           "blocks of it (split: blocks)",
           options.path);
  LS_CHECK(count >= 2, kConfig,
           "'{}' has {} bytes: too short to hold some out for validation, which takes at least {}; "
           "give a longer text or name the validation text itself (valid_path)",
           options.path, documents_[0].size, kBlock + 1);
  const double scaled = std::ldexp(options.valid_share, 64);
  // Below the largest, so that something is left to train on; not below the smallest.
  return std::max(smallest, std::min(static_cast<std::uint64_t>(scaled), largest - 1));
}

void ByteCorpus::lay_tails(const CorpusOptions& options) {
  for (std::size_t d = 0; d < documents_.size(); ++d) {
    const Index size = documents_[d].size;
    const auto tail = static_cast<Index>(static_cast<double>(size) * options.valid_share);
    const Index front = std::clamp<Index>(size - tail, 1, size);
    append(Split::kTrain, static_cast<Index>(d), 0, front);
    if (front < size) {
      append(Split::kValid, static_cast<Index>(d), front, size);
    }
  }
  LS_CHECK(
      bytes(Split::kValid) > 0, kConfig,
      "'{}': no file is so long that a share of {} of it is a byte; raise valid_share, or name "
      "the validation text itself (valid_path)",
      options.path, options.valid_share);
}

void ByteCorpus::lay_tapes(const CorpusOptions& options) {
  const bool both = options.valid_share > 0 && options.valid_share < 1;
  if (both && options.split == HeldOut::kTail) {
    lay_tails(options);
    return;
  }
  const std::uint64_t limit = both ? largest_valid_hash(options) : 0;
  for (std::size_t d = 0; d < documents_.size(); ++d) {
    const auto split_of = [&](Index block) {
      const bool valid = both ? block_hash(options, d, block) <= limit : options.valid_share >= 1;
      return valid ? Split::kValid : Split::kTrain;
    };
    const Index last = both ? pieces(options, d) : 1;
    Index begin = 0;
    for (Index b = 0; b < last; ++b) {
      if (b + 1 == last || split_of(b + 1) != split_of(b)) {
        const Index end = b + 1 == last ? documents_[d].size : (b + 1) * piece_bytes(options, d);
        append(split_of(b), static_cast<Index>(d), begin, end);
        begin = end;
      }
    }
  }
}

void ByteCorpus::append(Split split, Index document, Index begin, Index end) {
  Tape& tape = tapes_[static_cast<std::size_t>(split)];
  tape.stretches.push_back({document, begin, tape.bytes});
  tape.bytes += end - begin;
  tape.longest = std::max(tape.longest, end - begin);
}

std::shared_ptr<const DataFile> ByteCorpus::open(Index document) const {
  const auto d = static_cast<std::size_t>(document);
  const std::lock_guard lock(mutex_);
  if (!open_[d]) {
    open_[d] = std::make_shared<DataFile>(documents_[d].path, documents_[d].size);
    open_order_.push_back(document);
    if (open_order_.size() > kMostOpen) {
      open_[static_cast<std::size_t>(open_order_.front())] = nullptr;
      open_order_.pop_front();
    }
  }
  return open_[d];
}

DataIdentity ByteCorpus::identity() const {
  DataIdentity out{.files = documents()};
  Checksum names, content;
  for (const Document& d : documents_) {
    names.add_text(d.name);
    const std::uint64_t words[] = {static_cast<std::uint64_t>(d.size),
                                   DataFile(d.path, d.size).checksum()};
    content.add(words, sizeof words);
    out.bytes += d.size;
  }
  out.names = names.hex();
  out.content = content.hex();
  return out;
}

void ByteCorpus::read(Split split, Index position, std::span<std::uint8_t> out,
                      std::vector<Index>& starts) const {
  const Tape& tape = this->tape(split);
  LS_CHECK(0 <= position && position < tape.bytes, kInternal, "byte {} of {} of the {} text",
           position, tape.bytes, enum_name(split));
  const auto after = std::upper_bound(tape.stretches.begin(), tape.stretches.end(), position,
                                      [](Index p, const Stretch& s) { return p < s.start; });
  auto stretch = static_cast<std::size_t>(after - tape.stretches.begin()) - 1;
  Index done = 0;
  const auto wanted = static_cast<Index>(out.size());
  while (done < wanted) {
    const Stretch& s = tape.stretches[stretch];
    const bool last = stretch + 1 == tape.stretches.size();
    const Index end = last ? tape.bytes : tape.stretches[stretch + 1].start;
    const Index skip = position - s.start;
    const Index n = std::min(wanted - done, end - position);
    if (skip == 0) {
      starts.push_back(done);
    }
    const Document& d = documents_[static_cast<std::size_t>(s.document)];
    if (const Index size = file_size(d.path); size != d.size) {
      fail_changed(d.path, d.size, size);
    }
    open(s.document)
        ->read(s.begin + skip,
               out.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(n)));
    done += n;
    stretch = last ? 0 : stretch + 1;
    position = last ? 0 : end;
  }
}

std::string ByteCorpus::summary() const {
  const Index train = bytes(Split::kTrain);
  const Index valid = bytes(Split::kValid);
  return fmt::format("{} in {} document{}: {} training, {} validation", megabytes(train + valid),
                     documents(), documents() == 1 ? "" : "s", megabytes(train), megabytes(valid));
}

}  // namespace ls::data
