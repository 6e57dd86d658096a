#pragma once
// Progress of one training run: a bar on a terminal, plain lines elsewhere.
#include <chrono>
#include <string>
#include <vector>

#include "core/base/types.h"

namespace ls::experiments {

struct ProgressState {
  Index step = 0;
  double loss = 0;  ///< NaN: none yet
  double tokens_per_s = 0;
  double idle_share = 0;   ///< of the trainer's time spent waiting for data
  Index memory_bytes = 0;  ///< resident set of this process
};

class Progress {
 public:
  /// `title` names the run; `from` is the step at which it starts (resumed runs).
  Progress(std::string title, Index total_steps, Index from = 0, bool quiet = false);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void update(const ProgressState& state);
  /// A line above the bar.
  void note(const std::string& line);
  void finish();

 private:
  void draw(const ProgressState& state);
  using Clock = std::chrono::steady_clock;
  std::string title_;
  Index total_, from_;
  bool quiet_, terminal_, open_ = false;
  Clock::time_point begin_, last_;
  ProgressState state_;
};

/// Columns of the terminal that standard output is, 0 where it is none.
int terminal_columns();
/// What of "3/10", "loss 0.1", ... fits `columns` beside `title`, the first ones first, with a bar
/// of the share `done` where there is room for one.
std::string progress_line(const std::string& title, const std::vector<std::string>& numbers,
                          double done, int columns);
/// "1.2k", "3.4M"; "512 B", "1.5 KiB".
std::string human_count(double n);
std::string human_bytes(double n);
/// "42 s", "3 min 05 s", "2 h 10 min".
std::string human_seconds(double s);
/// Resident set of this process in bytes, and its peak.
Index resident_bytes();
Index peak_resident_bytes();
/// From now on the peak is that of what follows, where the system allows it.
void reset_peak_memory();

/// The peak of what happens while it lives; afterwards that of the process is what it was, or that.
/// Where the system allows no reset it is that of the process.
class PeakWatch {
 public:
  PeakWatch();
  ~PeakWatch();
  PeakWatch(const PeakWatch&) = delete;
  PeakWatch& operator=(const PeakWatch&) = delete;
  Index bytes() const;

 private:
  Index before_;
};

}  // namespace ls::experiments
