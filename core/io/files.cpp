#include "core/io/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/base/error.h"
#include "core/io/descriptor.h"

namespace ls {
namespace {

int open_file(const std::string& path, int flags) {
  return ::open(path.c_str(), flags, 0666);
}

// False, with errno set, when not everything could be written.
bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      return false;
    }
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

}  // namespace

std::string write_failure(int error) {
  std::string text = std::strerror(error);
  switch (error) {
    case ENOSPC:
      return text + ": the disk is full; free some space or write to another disk";
    case EDQUOT:
      return text + ": your share of the disk is full; free some space or write to another disk";
    case EFBIG:
      return text + ": the limit on the size of files (ulimit -f) is reached; raise it or write " +
             "to another disk";
    default:
      return text;
  }
}

std::string folder_name_fault(std::string_view name) {
  constexpr std::size_t kLongest = 200;  // bytes; file systems take 255, with what we append
  const auto control = [](char c) { return (c >= 0 && c < ' ') || c == 0x7f; };
  if (name.empty()) {
    return "is empty";
  }
  if (name.size() > kLongest) {
    return fmt::format("has {} bytes, at most {} fit a folder's name", name.size(), kLongest);
  }
  if (name.find_first_of("/\\") != std::string_view::npos) {
    return "has a slash";
  }
  if (std::any_of(name.begin(), name.end(), control)) {
    return "has a control character, such as a line feed";
  }
  if (name.front() == '.') {
    return "begins with a dot";
  }
  if (name.front() == ' ' || name.back() == ' ') {
    return "begins or ends with a space";
  }
  return "";
}

std::string read_file(const std::string& path) {
  const Descriptor fd(open_file(path, O_RDONLY | O_CLOEXEC));
  LS_CHECK(fd >= 0, kIo, "{}: cannot be opened: {}", path, std::strerror(errno));
  std::string text;
  char buffer[1 << 16];
  while (true) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    LS_CHECK(n >= 0, kIo, "{}: cannot be read: {}", path, std::strerror(errno));
    if (n == 0) {
      return text;
    }
    text.append(buffer, static_cast<std::size_t>(n));
  }
}

void replace_file(const std::string& path, std::string_view text) {
  const std::string temporary = path + ".tmp";
  Descriptor fd(open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC));
  LS_CHECK(fd >= 0, kIo, "{}: cannot be created: {}", temporary, write_failure(errno));
  if (!write_all(fd, text) || ::fsync(fd) != 0 || !fd.close() ||
      std::rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary.c_str());
    LS_FAIL(kIo, "{}: cannot be written: {}", path, write_failure(error));
  }
  sync_directory(std::filesystem::path(path).parent_path().string());
}

void append_line(const std::string& path, std::string_view text) {
  Descriptor fd(open_file(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC));
  LS_CHECK(fd >= 0, kIo, "{}: cannot be opened: {}", path, std::strerror(errno));
  LS_CHECK(write_all(fd, std::string(text) + "\n") && fd.close(), kIo, "{}: cannot be written: {}",
           path, write_failure(errno));
}

void sync_directory(const std::string& directory) {
  const Descriptor fd(
      open_file(directory.empty() ? "." : directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd >= 0) {
    ::fsync(fd);
  }
}

void create_directories(const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  LS_CHECK(!error, kIo, "{}: cannot be created: {}", directory, write_failure(error.value()));
}

}  // namespace ls
