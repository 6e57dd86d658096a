#include "core/base/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <iterator>

#include "core/base/error.h"

namespace ls {
namespace {
constexpr std::string_view kNames[] = {"debug", "info", "warn", "error"};  // of LogLevel

LogLevel level_from_environment() {
  const char* e = std::getenv("LONGSCAN_LOG");
  const auto* it = std::find(std::begin(kNames), std::end(kNames), e ? e : "info");
  return it == std::end(kNames) ? LogLevel::kInfo : static_cast<LogLevel>(it - kNames);
}
std::atomic<LogLevel>& threshold() {
  static std::atomic<LogLevel> level{level_from_environment()};
  return level;
}
/// Of the LogFile that is alive.
std::atomic<int> file{-1};
}  // namespace

LogFile::LogFile(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  LS_CHECK(fd >= 0, kIo, "{}: cannot be opened: {}", path, std::strerror(errno));
  const int before = file.exchange(fd);
  LS_CHECK(before < 0, kInternal, "two log files at a time");
}
LogFile::~LogFile() {
  ::close(file.exchange(-1));
}

void set_log_level(LogLevel level) {
  threshold() = level;
}

void log(LogLevel level, std::string_view message, LogFields fields) {
  const bool shown = level >= threshold();
  const int kept = level >= LogLevel::kInfo ? file.load() : -1;
  if (!shown && kept < 0) {
    return;
  }
  char clock[16];
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::strftime(clock, sizeof clock, "%H:%M:%S", &local);
  std::string line = std::string(clock) + " ";
  line.append(kNames[static_cast<int>(level)]).append(" ").append(message);
  for (const auto& [key, value] : fields) {
    line += " ";
    line += key;
    line += "=" + value;
  }
  line += "\n";
  // One write each: lines of threads do not mix.
  if (shown) {
    std::fwrite(line.data(), 1, line.size(), stderr);
  }
  if (kept >= 0 && ::write(kept, line.data(), line.size()) < 0) {
    return;  // a full disk stops no run here
  }
}
}  // namespace ls
