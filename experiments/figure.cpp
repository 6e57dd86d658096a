#include "experiments/figure.h"

#include <fmt/core.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>

#include "core/io/files.h"

namespace ls::experiments {
namespace {

std::string quoted(const std::string& s) {
  std::string out = "'";
  for (const char c : s) {
    out += c == '\'' ? "''" : std::string(1, c);
  }
  return out + "'";
}

// An axis; one that is next to a single point is widened: gnuplot warns of it.
struct Range {
  double low = INFINITY, high = -INFINITY;
  void add(double v) {
    if (std::isfinite(v)) {
      low = std::min(low, v);
      high = std::max(high, v);
    }
  }
  bool empty() const { return low > high; }
  std::string str() const {
    if (empty()) {
      return "[0:1]";
    }
    const double size = std::max(std::abs(low), std::abs(high));
    const double more = std::max(1e-3, 0.1 * size);
    return high - low > 1e-9 * size ? std::string("[*:*]")
                                    : fmt::format("[{}:{}]", low - more, high + more);
  }
};

// Without a shell, so that no path is interpreted.
int run(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  for (const std::string& a : command) {
    argv.push_back(const_cast<char*>(a.c_str()));
  }
  argv.push_back(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    sigset_t none;  // this program's threads hold signals back
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, nullptr);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) < 0) {
    return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

constexpr const char* kColors[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                   "#e69f00", "#56b4e9", "#000000"};
constexpr std::size_t kPanelWidth = 560;

/// Data and script of one figure while they are written.
class Script {
 public:
  explicit Script(std::string path) : path_(std::move(path)) {}

  void begin(const std::vector<Panel>& panels, const std::string& note, std::size_t most_columns) {
    const std::size_t columns = std::min(panels.size(), most_columns);
    const std::size_t rows = (panels.size() + most_columns - 1) / most_columns;
    std::size_t most = 0;
    for (const Panel& p : panels) {
      most = std::max(most, p.series.size());
    }
    const std::size_t height = 390 + 22 * ((most + 1) / 2);  // the legend has two columns
    script_ += fmt::format("set terminal svg size {},{} font 'sans,13' background '#ffffff'\n",
                           kPanelWidth * columns, height * rows + (note.empty() ? 0 : 30));
    script_ += "set output " + quoted(path_ + ".svg") + "\nset multiplot " +
               (note.empty() ? "" : "title " + quoted(note) + " noenhanced ") +
               fmt::format("layout {},{}\n", rows, columns);
    script_ +=
        "set border 3\nset tics nomirror out\nset grid back lc '#dddddd'\n"
        "set key outside bottom center horizontal maxcols 2 samplen 2\n";
  }

  void add(const Panel& p) {
    Range x, y;
    for (const Series& line : p.series) {
      for (std::size_t i = 0; i < line.x.size(); ++i) {
        if (std::isfinite(line.y[i])) {
          const double spread = line.spread.empty() ? 0 : line.spread[i];
          x.add(line.x[i]);
          y.add(line.y[i] - spread);
          y.add(line.y[i] + spread);
        }
      }
    }
    const bool log = p.x_log && !x.empty() && x.low > 0;
    script_ += "set title " + quoted(p.title) + " noenhanced\nset xlabel " + quoted(p.x_label) +
               " noenhanced offset 0,0.4\nset ylabel " + quoted(p.y_label) + " noenhanced\n" +
               (log ? "set logscale x 2\n" : "unset logscale x\n") + "set xrange " + x.str() +
               "\nset yrange " +
               (p.y_max > p.y_min ? fmt::format("[{}:{}]", p.y_min, p.y_max) : y.str()) +
               "\nunset arrow\n";
    // Of a panel without a point only the axes are drawn; the constant lies outside of them.
    plots_ = x.empty() ? "plot 2 notitle" : "";
    if (p.x_mark > 0 && x.low <= p.x_mark && p.x_mark <= x.high) {
      script_ += fmt::format("set arrow from {0},graph 0 to {0},graph 1 nohead dt 2 lc '#888888'\n",
                             p.x_mark);
      plot("keyentry with lines dt 2 lc '#888888' title " + quoted("trained up to here"));
    }
    for (std::size_t s = 0; s < p.series.size(); ++s) {
      add(p.series[s], p.series[s].color < 0 ? s : static_cast<std::size_t>(p.series[s].color));
    }
    script_ += plots_ + "\n";
  }

  void write() {
    replace_file(path_ + ".dat", data_);
    replace_file(path_ + ".gp", script_ + "unset multiplot\n");
  }

 private:
  void plot(const std::string& what) { plots_ += (plots_.empty() ? "plot " : ", ") + what; }

  void add(const Series& line, std::size_t number) {
    const std::string color = fmt::format("lc '{}'", kColors[number % std::size(kColors)]);
    const std::string dashes = fmt::format("dt {}", 1 + number / std::size(kColors) % 5);
    const std::string title =
        line.label.empty() ? " notitle" : " title " + quoted(line.label) + " noenhanced";
    const bool any = std::ranges::any_of(line.y, [](double v) { return std::isfinite(v); });
    if (!any) {
      if (!line.label.empty()) {
        plot("keyentry with lines " + color + " title " + quoted(line.label + ": no value") +
             " noenhanced");
      }
      return;
    }
    for (std::size_t i = 0; i < line.x.size(); ++i) {
      const double spread = line.spread.empty() ? 0 : line.spread[i];
      data_ += std::isfinite(line.y[i]) ? fmt::format("{} {} {} {}\n", line.x[i], line.y[i],
                                                      line.y[i] - spread, line.y[i] + spread)
                                        : fmt::format("{} NaN NaN NaN\n", line.x[i]);
    }
    data_ += "\n\n";
    const std::string from = quoted(path_ + ".dat") + " index " + std::to_string(index_++);
    if (line.points) {
      if (!line.spread.empty()) {
        plot(from + " using 1:2:3:4 with yerrorbars lw 1.5 pt 4 ps 0.9 " + color + title);
      } else {
        plot(from + " using 1:2 with points lw 1.5 pt 4 ps 0.9 " + color + title);
      }
      return;
    }
    if (!line.spread.empty()) {
      plot(from + " using 1:3:4 with filledcurves fs transparent solid 0.2 noborder " + color +
           " notitle");
    }
    plot(from +
         fmt::format(" using 1:2 with {} lw 2 pt 7 ps 0.4 {} ",
                     line.x.size() < 40 ? "linespoints" : "lines", dashes) +
         color + title);
  }

  std::string path_, data_, script_, plots_;
  int index_ = 0;
};

}  // namespace

std::string draw_figure(const std::string& path, const std::vector<Panel>& panels,
                        const std::string& note, std::size_t most_columns) {
  Script script(path);
  script.begin(panels, note, most_columns);
  for (const Panel& p : panels) {
    script.add(p);
  }
  script.write();
  const int status = run({"gnuplot", path + ".gp"});
  if (status == 0) {
    return "";
  }
  return status == 127 ? "gnuplot is not installed (package gnuplot-nox); data and script are in " +
                             path + ".dat and .gp"
                       : fmt::format("gnuplot failed with status {} on {}.gp", status, path);
}

}  // namespace ls::experiments
