#pragma once
// Structured log lines on stderr: time, level, message, key=value fields. Progress bars and result
// tables are not log lines and go to stdout.
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace ls {
enum class LogLevel { kDebug, kInfo, kWarn, kError };
using LogFields = std::initializer_list<std::pair<std::string_view, std::string>>;
/// Lines below this level are dropped. Default kInfo; LONGSCAN_LOG=debug|info|warn|error sets it.
void set_log_level(LogLevel level);
/// While alive, lines from kInfo on are appended to a file too, whatever the level; one at a time.
class LogFile {
 public:
  /// @throws Error(Io)
  explicit LogFile(const std::string& path);
  ~LogFile();
  LogFile(const LogFile&) = delete;
  LogFile& operator=(const LogFile&) = delete;
};
void log(LogLevel level, std::string_view message, LogFields fields = {});
inline void log_warn(std::string_view m, LogFields f = {}) {
  log(LogLevel::kWarn, m, f);
}
}  // namespace ls
