#pragma once
// Files as a corpus of bytes: read where they are needed, split into training and validation text.
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

/// A file open for reading, of a size that must not change.
class DataFile {
 public:
  /// @throws Error(Io) if it cannot be opened or does not have `size` bytes
  DataFile(const std::string& path, Index size);
  ~DataFile();
  DataFile(const DataFile&) = delete;
  DataFile& operator=(const DataFile&) = delete;
  /// Copies out.size() bytes from place `at`; safe to call from several threads at once.
  /// @throws Error(Io) if the file has become shorter or cannot be read
  void read(Index at, std::span<std::uint8_t> out) const;
  /// Checksum of the whole. Kept for as long as the file system says that the file is the same.
  std::uint64_t checksum() const;

 private:
  std::string path_;
  Index size_;
  int fd_;
};

/// What is held out of a text for validation.
enum class HeldOut : std::uint8_t {
  kBlocks,  ///< blocks of kBlock bytes, by hash
  kTail,    ///< the last bytes of every file: one stretch each
  kFiles,   ///< whole files, by hash
};

struct CorpusOptions {
  std::string path;                   ///< a file, or a directory that is searched through
  std::vector<std::string> suffixes;  ///< keep only files whose names end so; empty: all
  HeldOut split = HeldOut::kBlocks;
  double valid_share = 0;  ///< of what is held out; 0: all is training text, 1: all is validation
  std::uint64_t salt = 0;  ///< another number gives another split
};

/// The text of each split as one long tape. Every file (a document) is cut into pieces: blocks of
/// kBlock bytes from its start, the file whole, or its front and its tail. A hash of the file's
/// name within the directory and of the block's number decides to which split a piece belongs, so
/// that files added later move none; the tail is validation text. Neighbouring pieces of one split
/// form a stretch; the tape is the stretches one after the other, documents in order of their
/// names, and its end joins its beginning.
class ByteCorpus {
 public:
  static constexpr Index kBlock = 8192;

  /// Hidden files, empty files and those that are no regular files are left out.
  /// @throws Error(Io) if the path or a file cannot be read or there is no text; Error(Config) if
  ///   there are too few pieces for both splits
  explicit ByteCorpus(const CorpusOptions& options);

  Index documents() const { return static_cast<Index>(documents_.size()); }
  /// Bytes of a split's tape; kTest has none.
  Index bytes(Split split) const { return tape(split).bytes; }
  Index longest_stretch(Split split) const { return tape(split).longest; }
  /// Copies the tape from `position` on, 0 <= position < bytes(split), going round at its end;
  /// `starts` gets the places in `out` at which a stretch begins. Safe to call from several threads
  /// at once.
  /// @throws Error(Io) if a file has gone or changed its size
  void read(Split split, Index position, std::span<std::uint8_t> out,
            std::vector<Index>& starts) const;
  /// "4.43 MB in 1 document: 4.21 MB training, 0.22 MB validation".
  std::string summary() const;
  /// Names, sizes and contents, which takes reading everything once. @throws as read
  DataIdentity identity() const;

 private:
  struct Document {
    std::string path;
    std::string name;  // within the directory; "" where the path is the file
    Index size;
  };
  struct Stretch {
    Index document;
    Index begin;  // in the document
    Index start;  // on the tape
  };
  struct Tape {
    std::vector<Stretch> stretches;
    Index bytes = 0, longest = 0;
  };
  const Tape& tape(Split split) const { return tapes_[static_cast<std::size_t>(split)]; }
  /// The documents of a path, by name.
  static std::vector<Document> find(const CorpusOptions& options);
  static std::vector<Document> find_in_directory(const CorpusOptions& options);
  /// Bytes of a document's pieces that a hash sends to a split.
  Index piece_bytes(const CorpusOptions& options, std::size_t document) const {
    return options.split == HeldOut::kBlocks ? kBlock : documents_[document].size;
  }
  Index pieces(const CorpusOptions& options, std::size_t document) const {
    const Index bytes = piece_bytes(options, document);
    return (documents_[document].size + bytes - 1) / bytes;
  }
  std::uint64_t block_hash(const CorpusOptions& options, std::size_t document, Index block) const;
  /// Pieces with hashes up to this one are validation text. At least one goes to each side:
  /// that with the smallest hash to validation, that with the largest to training.
  std::uint64_t largest_valid_hash(const CorpusOptions& options) const;
  /// Cuts every document into stretches, those of one split one after the other.
  void lay_tapes(const CorpusOptions& options);
  void lay_tails(const CorpusOptions& options);
  void append(Split split, Index document, Index begin, Index end);
  std::shared_ptr<const DataFile> open(Index document) const;

  std::vector<Document> documents_;
  Tape tapes_[kNumSplits];
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<const DataFile>> open_;  // by document
  mutable std::deque<Index> open_order_;                       // oldest first
};

}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::HeldOut> {
  static constexpr std::string_view kKind = "split";
  static constexpr std::array<std::string_view, 3> kNames = {"blocks", "tail", "files"};
};
