#pragma once
// One process at a time in a run's folder.
#include <string>

namespace ls::experiments {

/// Keeps a second process out of a folder while it lives, however it ends. Where the file system
/// has no locks it warns and locks nothing. @throws Error(Io) when another process holds the
/// folder, or it cannot be written to
class RunLock {
 public:
  explicit RunLock(const std::string& directory);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace ls::experiments
