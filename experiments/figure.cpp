#include "experiments/figure.h"

#include <fmt/core.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>

#include "core/io/files.h"
#include "experiments/columns.h"
#include "experiments/csv.h"

namespace ls::experiments {
namespace {

std::string quoted(const std::string& s) {
  std::string out = "'";
  for (const char c : s) {
    out += c == '\'' ? "''" : std::string(1, c);
  }
  return out + "'";
}

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

constexpr std::size_t kPanelWidth = 560;        // pixels
constexpr double kNarrow = 3.25, kWide = 6.75;  // inches: a column of a paper, and both

/// Numbers of gnuplot's marks.
int mark_of(Marker marker, bool hollow) {
  constexpr int kFilled[] = {7, 5, 9, 13, 11, 15};
  return kFilled[static_cast<std::size_t>(marker)] - (hollow ? 1 : 0);
}

/// An axis; one that is next to a single point is widened: gnuplot warns of it.
std::string range_text(const std::optional<std::pair<double, double>>& range) {
  if (!range) {
    return "[0:1]";
  }
  const auto [low, high] = *range;
  const double size = std::max(std::abs(low), std::abs(high));
  const double more = std::max(1e-3, 0.1 * size);
  return high - low > 1e-9 * size ? std::string("[*:*]")
                                  : fmt::format("[{}:{}]", low - more, high + more);
}

template <class F>
std::optional<std::pair<double, double>> range_of(const Panel& panel, F&& f) {
  double low = INFINITY, high = -INFINITY;
  for (const Series& line : panel.series) {
    for (std::size_t i = 0; i < line.x.size(); ++i) {
      for (const double v : std::isfinite(line.y[i]) ? f(line, i) : std::vector<double>()) {
        low = std::isfinite(v) ? std::min(low, v) : low;
        high = std::isfinite(v) ? std::max(high, v) : high;
      }
    }
  }
  return low <= high ? std::optional(std::pair(low, high)) : std::nullopt;
}

std::string tick_text(double value, AxisUnit unit) {
  const char* const prefixes[] = {"", "k", "M", "G", "T"};
  std::size_t prefix = 0;
  double scaled = value;
  while (unit != AxisUnit::kNumber && scaled >= 1024 && prefix + 1 < std::size(prefixes)) {
    scaled /= 1024;
    ++prefix;
  }
  if (unit == AxisUnit::kBytes) {
    const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    return fmt::format("{} {}", scaled, units[prefix]);
  }
  return fmt::format("{}{}", scaled, prefixes[prefix]);
}

/// Data and script of one figure while they are written.
class Script {
 public:
  explicit Script(std::string path) : path_(std::move(path)) {}

  void begin(const std::vector<Panel>& panels, const FigureOptions& options) {
    for (const Panel& p : panels) {
      note_labels(p);
    }
    script_ +=
        "# gnuplot -e \"format='pdf'\" draws another format\n"
        "if (!exists('format')) format = 'svg'\n";
    const std::size_t columns = std::min(panels.size(), options.most_columns);
    format("svg", panels.size(), columns, options.note,
           {.width = static_cast<double>(kPanelWidth * columns),
            .panel = 390,
            .line = 22,
            .character = 8});
    format("png", panels.size(), columns, options.note,
           {.width = static_cast<double>(kPanelWidth * columns),
            .panel = 390,
            .line = 22,
            .character = 8});
    const std::size_t across = std::min<std::size_t>(panels.size(), 2);
    format("pdf", panels.size(), across, options.note,
           {.width = across > 1 ? kWide : kNarrow, .panel = 2.1, .line = 0.15, .character = 0.07});
    script_ += "set multiplot" + title_ + "\n";
    script_ += "set border 3\nset tics nomirror out\nset grid back lc '#dddddd'\nunset key\n";
  }

  void add(const Panel& p) {
    const auto x = x_range(p), y = y_range(p);
    script_ += "set title " + quoted(p.title) + " noenhanced\nset xlabel " + quoted(p.x_label) +
               " noenhanced offset 0,0.4\nset ylabel " + quoted(p.y_label) + " noenhanced\n";
    axis("x", x, p.x_log, p.x_unit, range_text(x));
    axis("y", y, p.y_log, p.y_unit,
         p.y_max > p.y_min ? fmt::format("[{}:{}]", p.y_min, p.y_max) : range_text(y));
    script_ += fmt::format(
        "unset arrow\nset origin ({0}%across)/real(across), foot+(down-1-{0}/across)*(1-top-foot)/"
        "down\nset size 1.0/across, (1-top-foot)/down\n",
        number_++);
    // Of a panel without a point only the axes are drawn; the constant lies outside of them.
    plots_ = x ? "" : "plot 2 notitle";
    if (p.x_mark > 0 && x && x->first <= p.x_mark && p.x_mark <= x->second) {
      script_ += fmt::format("set arrow from {0},graph 0 to {0},graph 1 nohead dt 2 lc '#888888'\n",
                             p.x_mark);
    }
    for (std::size_t s = 0; s < p.series.size(); ++s) {
      add(p.series[s], p.series[s].style.value_or(style_number(s)));
    }
    script_ += plots_ + "\n";
  }

  /// The legend below all panels.
  void end() {
    if (labels_.empty()) {
      return;
    }
    script_ +=
        "set origin 0,0\nset size 1,foot\nunset title\nunset xlabel\nunset ylabel\nunset border\n"
        "unset tics\nunset grid\nunset arrow\nunset logscale\nset xrange [0:1]\nset yrange [0:1]\n"
        "set key center center horizontal Left reverse maxcols legend samplen 2\nplot 2 notitle";
    for (const auto& [label, entry] : labels_) {
      script_ += ", " + entry;
    }
    script_ += "\n";
  }

  void write() {
    replace_file(path_ + ".dat", data_);
    replace_file(path_ + ".gp", script_ + "unset multiplot\n");
  }

 private:
  /// In pixels or inches.
  struct Sizes {
    double width, panel, line, character;
  };

  /// A terminal with the layout of panels and legend in it.
  void format(const std::string& name, std::size_t panels, std::size_t across,
              const std::string& note, const Sizes& size) {
    constexpr std::size_t kSample = 7;  // characters that a line of the legend takes besides text
    std::size_t longest = 1;
    for (const auto& [label, entry] : labels_) {
      longest = std::max(longest, columns_of(label));
    }
    const auto fit = static_cast<std::size_t>(
        size.width / (size.character * static_cast<double>(longest + kSample)));
    const std::size_t legend = std::clamp<std::size_t>(fit, 1, 6);
    const std::size_t lines = (labels_.size() + legend - 1) / legend;
    const std::size_t down = (panels + across - 1) / std::max<std::size_t>(1, across);
    const double foot = labels_.empty() ? 0 : size.line * (static_cast<double>(lines) + 0.6);
    const double top = note.empty() ? 0 : 1.5 * size.line;
    const double height = size.panel * static_cast<double>(down) + foot + top;
    const bool pdf = name == "pdf";
    const std::string terminal =
        name == "svg" ? fmt::format("svg size {:.0f},{:.0f} font 'sans,13' background '#ffffff'",
                                    size.width, height)
        : pdf ? fmt::format("pdfcairo size {}in,{:.2f}in font 'sans,8' fontscale 1 linewidth 0.6",
                            size.width, height)
              : fmt::format("pngcairo size {:.0f},{:.0f} font 'sans,10'", size.width, height);
    script_ += fmt::format(
        "if (format eq '{}') {{\n  set terminal {}\n  set output {}\n  set pointsize {}\n"
        "  across = {}; down = {}; foot = {:.4f}; top = {:.4f}; legend = {}\n}}\n",
        name, terminal, quoted(path_ + "." + name), pdf ? 0.6 : 1.0, across, down, foot / height,
        top / height, legend);
    title_ = note.empty() ? "" : " title " + quoted(note) + " noenhanced";
  }

  /// Each label once, as the first series that has a value shows it.
  void note_labels(const Panel& p) {
    if (p.x_mark > 0) {
      name("trained up to here", "keyentry with lines dt 2 lc '#888888'", false);
    }
    for (std::size_t s = 0; s < p.series.size(); ++s) {
      const Series& line = p.series[s];
      const Style style = line.style.value_or(style_number(s));
      const bool any = std::ranges::any_of(line.y, [](double v) { return std::isfinite(v); });
      const std::string color = fmt::format("lc '{}' dt {}", style.color, 1 + style.dash);
      const std::string mark = fmt::format("pt {} ", mark_of(style.marker, line.hollow));
      if (!line.label.empty()) {
        name(line.label,
             !any                          ? "keyentry with lines " + color
             : line.drawn == Drawn::kSteps ? "keyentry with lines lw 1.5 " + color
             : line.drawn == Drawn::kMarks ? "keyentry with points lw 1.5 " + mark + color
                                           : "keyentry with linespoints lw 2 " + mark + color,
             !any);
      }
    }
  }

  void name(const std::string& label, const std::string& entry, bool without) {
    const auto at = std::ranges::find(labels_, label, [](const auto& l) { return l.first; });
    const std::string whole =
        entry + " title " + quoted(label + (without ? ": no value" : "")) + " noenhanced";
    if (at == labels_.end()) {
      labels_.emplace_back(label, whole);
    } else if (!without && at->second.find(": no value") != std::string::npos) {
      at->second = whole;
    }
  }

  void plot(const std::string& what) { plots_ += (plots_.empty() ? "plot " : ", ") + what; }

  void axis(const std::string& name, const std::optional<std::pair<double, double>>& range,
            bool log, AxisUnit unit, const std::string& plain) {
    if (!log || !range || range->first <= 0) {
      script_ +=
          fmt::format("unset logscale {0}\nset {0}tics autofreq\nset {0}range {1}\n", name, plain);
      return;
    }
    const BinaryAxis binary = binary_axis(range->first, range->second, unit);
    std::string ticks;
    for (const auto& [value, text] : binary.ticks) {
      ticks += fmt::format("{}{} {}", ticks.empty() ? "" : ", ", quoted(text), value);
    }
    script_ += fmt::format("set logscale {0} 2\nset {0}tics ({1})\nset {0}range [{2}:{3}]\n", name,
                           ticks, binary.low, binary.high);
  }

  void add(const Series& line, const Style& style) {
    const std::string color = fmt::format("lc '{}'", style.color);
    const std::string dashes = fmt::format("dt {}", 1 + style.dash);
    const bool any = std::ranges::any_of(line.y, [](double v) { return std::isfinite(v); });
    if (!any) {
      return;
    }
    const bool interval = !line.low.empty();
    for (std::size_t i = 0; i < line.x.size(); ++i) {
      data_ += std::isfinite(line.y[i]) ? fmt::format("{} {} {} {}\n", line.x[i], line.y[i],
                                                      interval ? line.low[i] : line.y[i],
                                                      interval ? line.high[i] : line.y[i])
                                        : fmt::format("{} NaN NaN NaN\n", line.x[i]);
    }
    data_ += "\n\n";
    const std::string from = quoted(path_ + ".dat") + " index " + std::to_string(index_++);
    const std::string mark = fmt::format("pt {}", mark_of(style.marker, line.hollow));
    if (line.drawn == Drawn::kMarks) {
      plot(from + (interval ? " using 1:2:3:4 with yerrorbars" : " using 1:2 with points") +
           " lw 1.5 " + mark + " ps 0.7 " + color + " notitle");
      return;
    }
    if (line.drawn == Drawn::kSteps) {
      plot(from + " using 1:2 with steps lw 1.5 " + dashes + " " + color + " notitle");
      return;
    }
    if (interval) {
      plot(from + " using 1:3:4 with filledcurves fs transparent solid 0.2 noborder " + color +
           " notitle");
    }
    plot(from + " using 1:2 with " +
         (line.x.size() < 40 ? "linespoints " + mark + " ps 0.6 " : std::string("lines ")) +
         "lw 2 " + dashes + " " + color + " notitle");
  }

  std::string path_, data_, script_, plots_, title_;
  std::vector<std::pair<std::string, std::string>> labels_;  // with their entries in the legend
  int index_ = 0, number_ = 0;                               // of series and panels
};

}  // namespace

std::optional<std::pair<double, double>> x_range(const Panel& panel) {
  return range_of(panel, [](const Series& s, std::size_t i) { return std::vector{s.x[i]}; });
}

std::optional<std::pair<double, double>> y_range(const Panel& panel) {
  return range_of(panel, [](const Series& s, std::size_t i) {
    return s.low.empty() ? std::vector{s.y[i]} : std::vector{s.y[i], s.low[i], s.high[i]};
  });
}

BinaryAxis binary_axis(double low, double high, AxisUnit unit) {
  constexpr int kMostTicks = 9;
  int first = static_cast<int>(std::ceil(std::log2(low) - 1e-9)),
      last = static_cast<int>(std::floor(std::log2(high) + 1e-9));
  if (last - first < 1) {  // too few to read a scale by
    first = static_cast<int>(std::floor(std::log2(low) + 1e-9));
    last = std::max(first + 1, static_cast<int>(std::ceil(std::log2(high) - 1e-9)));
  }
  BinaryAxis axis{.low = std::min(low, std::exp2(first)) / 1.15,
                  .high = std::max(high, std::exp2(last)) * 1.15};
  const int step = 1 + (last - first) / kMostTicks;
  for (int e = first; e <= last; e += step) {
    axis.ticks.emplace_back(std::exp2(e), tick_text(std::exp2(e), unit));
  }
  return axis;
}

std::string draw_figure(const std::string& path, const std::vector<Panel>& panels,
                        const FigureOptions& options) {
  Script script(path);
  script.begin(panels, options);
  for (const Panel& p : panels) {
    script.add(p);
  }
  script.end();
  script.write();
  for (const auto& [format, wanted] :
       {std::pair{"svg", true}, {"png", options.png}, {"pdf", options.pdf}}) {
    const int status =
        wanted ? run({"gnuplot", "-e", fmt::format("format='{}'", format), path + ".gp"}) : 0;
    if (status == 127) {
      return "gnuplot is not installed (package gnuplot-nox); data and script are in " + path +
             ".dat and .gp";
    }
    if (status != 0) {
      return fmt::format("gnuplot failed with status {} on {}.gp", status, path);
    }
  }
  return "";
}

std::string figure_csv(const std::vector<Panel>& panels) {
  std::string out =
      csv_line({"panel", "x_name", "y_name", "series", "kind", "x", "y", "low", "high", "source"});
  const auto number = [](double v) { return std::isfinite(v) ? fmt::format("{}", v) : ""; };
  for (const Panel& panel : panels) {
    for (const Series& s : panel.series) {
      for (std::size_t i = 0; i < s.x.size(); ++i) {
        if (!std::isfinite(s.y[i])) {
          continue;
        }
        out += csv_line({panel.title, panel.x_label, panel.y_label, s.label, s.kind, number(s.x[i]),
                         number(s.y[i]), s.low.empty() ? "" : number(s.low[i]),
                         s.high.empty() ? "" : number(s.high[i]),
                         s.sources.empty() ? "" : s.sources[i].text});
      }
    }
  }
  return out;
}

}  // namespace ls::experiments
