#pragma once
// An open file, for the sources of core/io.
#include <unistd.h>

#include <utility>

namespace ls {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}  ///< what ::open returned
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { close(); }
  operator int() const { return fd_; }  // NOLINT
  int release() { return std::exchange(fd_, -1); }
  /// False, with errno set, when what was written may be lost.
  bool close() {
    const int fd = release();
    return fd < 0 || ::close(fd) == 0;
  }

 private:
  int fd_;
};

}  // namespace ls
