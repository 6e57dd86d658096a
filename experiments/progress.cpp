#include "experiments/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>

#include "experiments/columns.h"

namespace ls::experiments {
namespace {
constexpr double kTerminalInterval = 0.1, kPlainInterval = 10.0;  // seconds
double seconds(std::chrono::steady_clock::duration d) {
  return std::chrono::duration<double>(d).count();
}

int width_of(const std::string& text) {
  return static_cast<int>(columns_of(text));
}
std::string cut(const std::string& text, int width) {
  return text.substr(0, bytes_of(text, static_cast<std::size_t>(width)));
}
}  // namespace

// The terminal that mpirun puts between has no width: what lies behind it is unknown.
int terminal_columns() {
  winsize window{};
  return isatty(STDOUT_FILENO) != 0 && ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0
             ? window.ws_col
             : 0;
}

std::string progress_line(const std::string& title, const std::vector<std::string>& numbers,
                          double done, int columns) {
  constexpr int kLeastBar = 4, kMostBar = 30, kLeastTitle = 8;
  const int room = columns - 1;  // a full line would make some terminals begin a new one
  int total = 0;
  for (const std::string& one : numbers) {
    total += width_of(one) + 2;
  }
  const std::string name = cut(title, std::max({kLeastTitle, room - total, room / 2}));
  std::string text;
  for (const std::string& one : numbers) {
    if (width_of(name) + width_of(text) + 2 + width_of(one) > room) {
      break;
    }
    text += "  " + one;
  }
  const int left = room - width_of(name) - width_of(text) - 1;
  std::string bar;
  if (left >= kLeastBar) {
    const int width = std::min(left, kMostBar);
    for (int i = 0; i < width; ++i) {
      bar += i < static_cast<int>(done * width) ? "█" : "░";
    }
    bar = " " + bar;
  }
  return cut(name + bar + text, std::max(1, room));
}

std::string human_count(double n) {
  const char* kUnits[] = {"", "k", "M", "G", "T"};
  int u = 0;
  while (std::abs(n) >= 999.5 && u < 4) {
    n /= 1000;
    ++u;
  }
  return u == 0 ? fmt::format("{:.0f}", n)
                : fmt::format("{:.{}f}{}", n,
                              n < 9.995   ? 2
                              : n < 99.95 ? 1
                                          : 0,
                              kUnits[u]);
}

std::string human_bytes(double n) {
  const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int u = 0;
  while (std::abs(n) >= 1023.5 && u < 4) {
    n /= 1024;
    ++u;
  }
  return u == 0 ? fmt::format("{:.0f} B", n)
                : fmt::format("{:.{}f} {}", n, n < 99.95 ? 1 : 0, kUnits[u]);
}

std::string human_seconds(double s) {
  const auto n = static_cast<Index>(std::llround(std::max(0.0, s)));
  if (n < 60) {
    return fmt::format("{} s", n);
  }
  return n < 3600 ? fmt::format("{} min {:02} s", n / 60, n % 60)
                  : fmt::format("{} h {:02} min", n / 3600, n / 60 % 60);
}

Index resident_bytes() {
  Index pages = 0;
  if (std::FILE* f = std::fopen("/proc/self/statm", "r")) {
    long size = 0, resident = 0;
    if (std::fscanf(f, "%ld %ld", &size, &resident) == 2) {
      pages = resident;
    }
    std::fclose(f);
  }
  return pages * sysconf(_SC_PAGESIZE);
}

namespace {

std::atomic<Index> earlier_peak = 0;

Index peak_of_system() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<Index>(usage.ru_maxrss) * 1024;
}

void reset_peak_of_system() {
  if (std::FILE* f = std::fopen("/proc/self/clear_refs", "w")) {
    std::fputs("5", f);
    std::fclose(f);
  }
}

}  // namespace

Index peak_resident_bytes() {
  return std::max(earlier_peak.load(), peak_of_system());
}

void reset_peak_memory() {
  earlier_peak = 0;
  reset_peak_of_system();
}

PeakWatch::PeakWatch() : before_(peak_resident_bytes()) {
  reset_peak_of_system();
}

PeakWatch::~PeakWatch() {
  earlier_peak = before_;
}

Index PeakWatch::bytes() const {
  return peak_of_system();
}

Progress::Progress(std::string title, Index total_steps, Index from, bool quiet)
    : title_(std::move(title)),
      total_(total_steps),
      from_(from),
      quiet_(quiet),
      terminal_(terminal_columns() > 0),
      begin_(Clock::now()),
      last_(begin_) {}

Progress::~Progress() {
  if (open_) {
    std::fputs("\n", stdout);
  }
}

void Progress::update(const ProgressState& state) {
  state_ = state;
  const double since = seconds(Clock::now() - last_);
  if (quiet_ ||
      (since < (terminal_ ? kTerminalInterval : kPlainInterval) && state.step != total_)) {
    return;
  }
  last_ = Clock::now();
  draw(state);
}

void Progress::draw(const ProgressState& s) {
  const double elapsed = seconds(Clock::now() - begin_);
  const auto done = static_cast<double>(s.step - from_),
             left = static_cast<double>(total_ - s.step);
  const std::string eta = s.step >= total_ ? "took " + human_seconds(elapsed)
                          : done > 0       ? "ETA " + human_seconds(elapsed * left / done)
                                           : "ETA ?";
  const std::vector<std::string> numbers = {
      fmt::format("{}/{}", s.step, total_),
      std::isnan(s.loss) ? "loss -" : fmt::format("loss {:.4f}", s.loss),
      eta,
      fmt::format("{} tok/s", human_count(s.tokens_per_s)),
      human_bytes(static_cast<double>(s.memory_bytes)),
      fmt::format("data wait {:.0f} %", 100 * s.idle_share)};
  if (!terminal_) {
    fmt::print("{}  {}\n", title_, fmt::join(numbers, "  "));
    std::fflush(stdout);
    return;
  }
  const double share = total_ > 0 ? static_cast<double>(s.step) / static_cast<double>(total_) : 0;
  fmt::print("\r\033[K{}", progress_line(title_, numbers, share, terminal_columns()));
  std::fflush(stdout);
  open_ = true;
}

void Progress::note(const std::string& line) {
  if (quiet_) {
    return;
  }
  if (open_) {
    std::fputs("\r\033[K", stdout);
    open_ = false;
  }
  fmt::print("{}  {}\n", title_, line);
  std::fflush(stdout);
}

void Progress::finish() {
  if (!quiet_ && last_ != begin_) {
    if (terminal_) {
      draw(state_);
    }
  }
  if (open_) {
    std::fputs("\n", stdout);
    open_ = false;
  }
}

}  // namespace ls::experiments
