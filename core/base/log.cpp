#include "core/base/log.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace ls {
namespace {
LogLevel level_from_environment() {
  const char* e = std::getenv("LONGSCAN_LOG");
  const std::string_view v = e ? e : "info";
  return v == "debug"   ? LogLevel::kDebug
         : v == "warn"  ? LogLevel::kWarn
         : v == "error" ? LogLevel::kError
                        : LogLevel::kInfo;
}
std::atomic<LogLevel>& threshold() {
  static std::atomic<LogLevel> level{level_from_environment()};
  return level;
}
}  // namespace

void set_log_level(LogLevel level) {
  threshold() = level;
}

void log(LogLevel level, std::string_view message, LogFields fields) {
  if (level < threshold()) {
    return;
  }
  constexpr const char* kNames[] = {"debug", "info", "warn", "error"};
  char clock[16];
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::strftime(clock, sizeof clock, "%H:%M:%S", &local);
  std::string line = std::string(clock) + " " + kNames[static_cast<int>(level)] + " ";
  line += message;
  for (const auto& [key, value] : fields) {
    line += " ";
    line += key;
    line += "=" + value;
  }
  line += "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);  // one write: lines of threads do not mix
}
}  // namespace ls
