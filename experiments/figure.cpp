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

}  // namespace

std::string draw_figure(const std::string& path, const std::vector<Panel>& panels) {
  constexpr const char* kColors[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                     "#e69f00", "#56b4e9", "#000000"};
  std::string data, script;
  script += fmt::format("set terminal svg size {},420 font 'sans,13' background '#ffffff'\n",
                        560 * panels.size());
  script += "set output " + quoted(path + ".svg") + "\nset multiplot layout 1," +
            std::to_string(panels.size()) + "\n";
  script +=
      "set border 3\nset tics nomirror out\nset grid back lc '#dddddd'\nset key bottom right "
      "samplen 2\n";
  int index = 0;
  for (const Panel& p : panels) {
    script += "set title " + quoted(p.title) + " noenhanced\nset xlabel " + quoted(p.x_label) +
              " noenhanced\nset ylabel " + quoted(p.y_label) + " noenhanced\n";
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
    script += "set xrange " + x.str() + "\nset yrange " +
              (p.y_max > p.y_min ? fmt::format("[{}:{}]", p.y_min, p.y_max) : y.str()) + "\n";
    // Of a panel without a point only the axes are drawn; the constant lies outside of them.
    std::string plots = x.empty() ? "plot 2 notitle" : "";
    for (std::size_t s = 0; s < p.series.size(); ++s) {
      const Series& line = p.series[s];
      const char* color = kColors[s % std::size(kColors)];
      for (std::size_t i = 0; i < line.x.size(); ++i) {
        const double spread = line.spread.empty() ? 0 : line.spread[i];
        data += std::isfinite(line.y[i]) ? fmt::format("{} {} {} {}\n", line.x[i], line.y[i],
                                                       line.y[i] - spread, line.y[i] + spread)
                                         : fmt::format("{} NaN NaN NaN\n", line.x[i]);
      }
      data += "\n\n";
      const std::string from = quoted(path + ".dat") + " index " + std::to_string(index++);
      if (std::none_of(line.y.begin(), line.y.end(), [](double v) { return std::isfinite(v); })) {
        continue;
      }
      plots += plots.empty() ? "plot " : ", ";
      if (!line.spread.empty()) {
        plots += from + fmt::format(
                            " using 1:3:4 with filledcurves fs transparent solid 0.2 noborder lc "
                            "'{}' notitle, ",
                            color);
      }
      plots += from +
               fmt::format(" using 1:2 with {} lw 2 pt 7 ps 0.4 lc '{}' title ",
                           line.x.size() < 40 ? "linespoints" : "lines", color) +
               quoted(line.label) + " noenhanced";
    }
    script += plots + "\n";
  }
  script += "unset multiplot\n";
  replace_file(path + ".dat", data);
  replace_file(path + ".gp", script);
  const int status = run({"gnuplot", path + ".gp"});
  if (status == 0) {
    return "";
  }
  return status == 127 ? "gnuplot is not installed (package gnuplot-nox); data and script are in " +
                             path + ".dat and .gp"
                       : fmt::format("gnuplot failed with status {} on {}.gp", status, path);
}

}  // namespace ls::experiments
