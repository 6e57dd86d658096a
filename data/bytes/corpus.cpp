#include "data/bytes/corpus.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "core/base/error.h"
#include "core/base/log.h"

namespace ls::data {
namespace {

namespace fs = std::filesystem;

/// Files kept mapped at a time, well below the system's limit on mappings.
constexpr std::size_t kMostMapped = 1024;

std::string reason() {
  return std::strerror(errno);
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

MappedFile::MappedFile(const std::string& path, Index size) : size_(size) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  LS_CHECK(fd >= 0, kIo, "cannot open '{}': {}", path, reason());
  void* at = MAP_FAILED;
  struct stat info {};
  std::string fault;
  if (::fstat(fd, &info) != 0) {
    fault = reason();
  } else if (info.st_size != size) {
    fault = fmt::format("it has {} bytes, it had {} when the run began", info.st_size, size);
  } else {
    at = ::mmap(nullptr, static_cast<std::size_t>(size), PROT_READ, MAP_SHARED, fd, 0);
    fault = at == MAP_FAILED ? reason() : "";
  }
  ::close(fd);
  LS_CHECK(at != MAP_FAILED, kIo, "cannot map '{}': {}", path, fault);
  data_ = static_cast<const std::uint8_t*>(at);
}

MappedFile::~MappedFile() {
  ::munmap(const_cast<std::uint8_t*>(data_), static_cast<std::size_t>(size_));
}

ByteCorpus::ByteCorpus(const CorpusOptions& options) {
  const fs::path path = options.path;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  LS_CHECK(!options.path.empty(), kConfig, "bytes needs a path: a file or a directory of text");
  LS_CHECK(fs::exists(status), kIo, "cannot read '{}': {}", options.path,
           error ? error.message() : "No such file or directory");
  LS_CHECK(fs::is_directory(status) || fs::is_regular_file(status), kIo,
           "'{}' is neither a file nor a directory", options.path);

  std::vector<std::uint64_t> hashes;  // of the names
  if (fs::is_directory(status)) {
    const Found found = find_files(path, options.suffixes);
    Index empty = 0;
    for (const std::string& name : found.names) {
      const std::string full = (path / name).string();
      LS_CHECK(::access(full.c_str(), R_OK) == 0, kIo, "cannot read '{}': {}", full, reason());
      if (const Index size = file_size(full); size > 0) {
        documents_.push_back({full, size});
        hashes.push_back(stream_id(name));
      } else {
        ++empty;
      }
    }
    LS_CHECK(!documents_.empty(), kIo,
             "no text in the directory '{}': {} files{}, {} of them empty", options.path,
             found.names.size(), options.suffixes.empty() ? "" : " with the suffixes asked for",
             empty);
    if (empty + found.skipped > 0) {
      log_warn("some files of the corpus are left out",
               {{"path", options.path},
                {"empty", std::to_string(empty)},
                {"not_regular", std::to_string(found.skipped)}});
    }
  } else {
    LS_CHECK(::access(options.path.c_str(), R_OK) == 0, kIo, "cannot read '{}': {}", options.path,
             reason());
    const Index size = file_size(options.path);
    LS_CHECK(size > 0, kIo, "'{}' is empty; give a file with text in it, or a folder of such files",
             options.path);
    documents_.push_back({options.path, size});
    hashes.push_back(0);  // so that a single file may be renamed
  }
  mapped_.resize(documents_.size());

  const auto hash = [&](std::size_t document, Index block) {
    return mix64(mix64(hashes[document] ^ mix64(options.salt + 1)) +
                 static_cast<std::uint64_t>(block));
  };
  const auto blocks = [&](std::size_t document) {
    return (documents_[document].size + kBlock - 1) / kBlock;
  };
  // Validation blocks have hashes up to `limit`. At least one block goes to each side: that with
  // the smallest hash to validation, that with the largest to training.
  std::uint64_t smallest = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t largest = 0;
  Index count = 0;
  for (std::size_t d = 0; d < documents_.size(); ++d) {
    for (Index b = 0; b < blocks(d); ++b, ++count) {
      smallest = std::min(smallest, hash(d, b));
      largest = std::max(largest, hash(d, b));
    }
  }
  const bool both = options.valid_share > 0 && options.valid_share < 1;
  LS_CHECK(!both || count >= 2, kConfig,
           "'{}' has {} bytes: too short to hold some out for validation, which takes at least {}; "
           "give a longer text or name the validation text itself (valid_path)",
           options.path, documents_[0].size, kBlock + 1);
  const double scaled = std::ldexp(options.valid_share, 64);
  std::uint64_t limit = 0;
  if (both) {
    limit = std::clamp(static_cast<std::uint64_t>(scaled), smallest, largest - 1);
  }
  for (std::size_t d = 0; d < documents_.size(); ++d) {
    const auto split_of = [&](Index block) {
      const bool valid = both ? hash(d, block) <= limit : options.valid_share >= 1;
      return valid ? Split::kValid : Split::kTrain;
    };
    const Index size = documents_[d].size;
    const Index last = both ? blocks(d) : 1;
    Index begin = 0;
    for (Index b = 0; b < last; ++b) {
      if (b + 1 == last || split_of(b + 1) != split_of(b)) {
        const Index end = b + 1 == last ? size : (b + 1) * kBlock;
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
}

std::shared_ptr<const MappedFile> ByteCorpus::map(Index document) const {
  const auto d = static_cast<std::size_t>(document);
  const std::lock_guard lock(mutex_);
  if (!mapped_[d]) {
    mapped_[d] = std::make_shared<MappedFile>(documents_[d].path, documents_[d].size);
    mapped_order_.push_back(document);
    if (mapped_order_.size() > kMostMapped) {
      mapped_[static_cast<std::size_t>(mapped_order_.front())] = nullptr;
      mapped_order_.pop_front();
    }
  }
  return mapped_[d];
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
    // A mapped page beyond the end of a file that has shrunk would be a bus error.
    const Document& d = documents_[static_cast<std::size_t>(s.document)];
    const Index size = file_size(d.path);
    LS_CHECK(size == d.size, kIo,
             "'{}' has changed from {} to {} bytes during the run; train on a copy that nothing "
             "writes to",
             d.path, d.size, size);
    const auto file = map(s.document);
    std::memcpy(out.data() + done, file->data() + s.begin + skip, static_cast<std::size_t>(n));
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
