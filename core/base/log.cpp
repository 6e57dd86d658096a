#include "core/base/log.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iterator>

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
}  // namespace

void set_log_level(LogLevel level) {
  threshold() = level;
}

void log(LogLevel level, std::string_view message, LogFields fields) {
  if (level < threshold()) {
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
  std::fwrite(line.data(), 1, line.size(), stderr);  // one write: lines of threads do not mix
}
}  // namespace ls
