#include "experiments/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/io/files.h"

namespace ls::experiments {

RunLock::RunLock(const std::string& directory) {
  const std::string path = directory + "/.lock";
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  LS_CHECK(fd_ >= 0, kIo,
           "{}: cannot be written to: {}; go on as the user who made it, or choose another name or "
           "output folder",
           directory, write_failure(errno));
  if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) {
    const std::string owner = fmt::format("process {}", ::getpid());
    if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, owner.data(), owner.size(), 0) < 0) {
      log(LogLevel::kDebug, "the lock of the run names no owner");
    }
    return;
  }
  const int error = errno;
  const std::string owner = error == EWOULDBLOCK ? read_file(path) : "";
  ::close(fd_);
  LS_CHECK(error != EWOULDBLOCK, kIo,
           "{} is in use by {}: wait for it, stop it, or give this run another name", directory,
           owner.empty() ? "another process" : owner);
  fd_ = -1;
  log_warn("this file system has no locks: see to it that no other process uses the folder",
           {{"path", directory}});
}

RunLock::~RunLock() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
}

}  // namespace ls::experiments
