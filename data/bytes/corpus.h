#pragma once
// Files as a corpus of bytes: mapped, never read whole, split into training and validation text.
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "core/base/types.h"
#include "data/task.h"

namespace ls::data {

/// A whole file mapped for reading.
class MappedFile {
 public:
  /// @throws Error(Io) if it cannot be opened or mapped, or does not have `size` bytes
  MappedFile(const std::string& path, Index size);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  const std::uint8_t* data() const { return data_; }

 private:
  const std::uint8_t* data_ = nullptr;
  Index size_ = 0;
};

struct CorpusOptions {
  std::string path;                   ///< a file, or a directory that is searched through
  std::vector<std::string> suffixes;  ///< keep only files whose names end so; empty: all
  double valid_share = 0;  ///< of the blocks; 0: all is training text, 1: all is validation
  std::uint64_t salt = 0;  ///< another number gives another split
};

/// The text of each split as one long tape. Every file (a document) is cut into blocks of kBlock
/// bytes from its start, and a hash of the file's name within the directory and of the block's
/// number decides to which split a block belongs, so that files added later move no block.
/// Neighbouring blocks of one split form a stretch; the tape is the stretches one after the other,
/// documents in order of their names, and its end joins its beginning.
class ByteCorpus {
 public:
  static constexpr Index kBlock = 8192;

  /// Hidden files, empty files and those that are no regular files are left out.
  /// @throws Error(Io) if the path or a file cannot be read or there is no text; Error(Config) if
  ///   there are too few blocks for both splits
  explicit ByteCorpus(const CorpusOptions& options);

  Index documents() const { return static_cast<Index>(documents_.size()); }
  /// Bytes of a split's tape; kTest has none.
  Index bytes(Split split) const { return tape(split).bytes; }
  /// Copies the tape from `position` on, 0 <= position < bytes(split), going round at its end;
  /// `starts` gets the places in `out` at which a stretch begins. Safe to call from several threads
  /// at once.
  /// @throws Error(Io) if a file has gone or changed its size
  void read(Split split, Index position, std::span<std::uint8_t> out,
            std::vector<Index>& starts) const;
  /// "4.43 MB in 1 document: 4.21 MB training, 0.22 MB validation".
  std::string summary() const;

 private:
  struct Document {
    std::string path;
    Index size;
  };
  struct Stretch {
    Index document;
    Index begin;  // in the document
    Index start;  // on the tape
  };
  struct Tape {
    std::vector<Stretch> stretches;
    Index bytes = 0;
  };
  const Tape& tape(Split split) const { return tapes_[static_cast<std::size_t>(split)]; }
  void append(Split split, Index document, Index begin, Index end);
  std::shared_ptr<const MappedFile> map(Index document) const;

  std::vector<Document> documents_;
  Tape tapes_[kNumSplits];
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<const MappedFile>> mapped_;  // by document
  mutable std::deque<Index> mapped_order_;                         // oldest first
};

}  // namespace ls::data
