#pragma once
// HDF5 files: tensors, attributes, groups. Every failure is one Error(Io) naming the file, the
// object and HDF5's own reason. Calls are serialised: the library need not be built thread-safe.
//
// HDF5 itself can crash on a damaged file and after a failed write, so neither reaches it: a new
// file is built in memory, written once by close(), and sealed by a checksum of the whole behind
// HDF5's part (which other readers ignore); open() checks the seal before HDF5 sees the
// file. A file written here whose seal is missing was not written to its end and is refused. Files
// of other programs have no seal: where damage passes HDF5's own checks, HDF5 may still crash on
// them.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/tensor/tensor.h"

namespace ls::h5 {

std::string library_version();  ///< "1.10.8"

using Attribute = std::variant<std::int64_t, double, std::string, std::vector<std::int64_t>,
                               std::vector<double>, std::vector<std::string>>;

/// What is wrong with a file that was written here: it was cut off, its writer was stopped, or a
/// byte was changed; "" when it is whole. @throws Error(Io) if it cannot be opened
std::string damage(const std::string& path);

/// What a dataset holds, without its elements.
struct DatasetInfo {
  Shape shape;
  DType dtype;
};

/// One open file. Paths of groups and datasets are absolute or relative to the root, "a/b/c".
class File {
 public:
  /// For reading. @throws Error(Io) for a missing, unreadable, truncated, damaged or foreign file
  static File open(const std::string& path);
  /// A new file, replacing an old one; empty on the disk, and held in memory, until close().
  static File create(const std::string& path);
  File(File&&) noexcept;
  File& operator=(File&&) noexcept;
  /// Drops a new file that was not closed: what is on the disk is then refused by open().
  ~File();

  const std::string& path() const;
  /// Whether the file was written here and its checksum holds; other programs' files have none.
  bool sealed() const;
  bool exists(const std::string& object) const;
  /// Names in a group, sorted.
  std::vector<std::string> children(const std::string& group = "/") const;
  bool is_group(const std::string& object) const;

  /// A dataset as f64, f32, bf16, f16, i64, i32, u8 or bool, as it was written; float and integer
  /// types of other programs come as the narrowest of these that holds them.
  Tensor read(const std::string& dataset) const;
  /// Shape and type of what read() would return.
  DatasetInfo info(const std::string& dataset) const;
  /// Creates missing groups on the way.
  void write(const std::string& dataset, const Tensor& value);
  void create_group(const std::string& group);

  /// Attribute names of a group or dataset, sorted.
  std::vector<std::string> attributes(const std::string& object = "/") const;
  bool has_attribute(const std::string& object, const std::string& name) const;
  Attribute attribute(const std::string& object, const std::string& name) const;
  void set_attribute(const std::string& object, const std::string& name, const Attribute& value);

  /// The attribute as one type. @throws Error(Io) when it is of another
  std::int64_t integer(const std::string& object, const std::string& name) const;
  double number(const std::string& object, const std::string& name) const;  ///< integers too
  std::string text(const std::string& object, const std::string& name) const;

  /// Writes a new file whole, sealed, and forces it to the disk; closes.
  /// @throws Error(Io) on a full disk and the like; what is on the disk is then refused by open()
  void close();

 private:
  struct Impl;
  explicit File(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ls::h5
