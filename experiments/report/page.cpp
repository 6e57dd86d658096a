#include "experiments/report/page.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "experiments/progress.h"
#include "experiments/provenance.h"
#include "experiments/report/assets.h"
#include "experiments/sample.h"

namespace ls::experiments {
namespace {

using Json = nlohmann::ordered_json;

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

/// A path as an address: what means something else there is escaped.
std::string as_address(const std::string& path) {
  std::string out;
  for (const char c : path) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 ||
                       std::string_view("-_.~/").find(c) != std::string_view::npos;
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

Json number(double v) {
  return std::isfinite(v) ? Json(v) : Json();
}

Json numbers(const std::vector<double>& values) {
  Json out = Json::array();
  for (const double v : values) {
    out.push_back(number(v));
  }
  return out;
}

Json series_json(const Series& s, const Style& style, const std::string& name) {
  Json j{{"name", name},
         {"label", s.label},
         {"kind", s.kind},
         {"color", style.color},
         {"marker", static_cast<int>(style.marker)},
         {"dash", style.dash},
         {"hollow", s.hollow},
         {"drawn", s.drawn == Drawn::kLine    ? "line"
                   : s.drawn == Drawn::kSteps ? "steps"
                                              : "marks"},
         {"x", numbers(s.x)},
         {"y", numbers(s.y)}};
  if (!s.low.empty()) {
    j["low"] = numbers(s.low);
    j["high"] = numbers(s.high);
  }
  j["texts"] = Json::array();
  j["anchors"] = Json::array();
  for (std::size_t i = 0; i < s.x.size(); ++i) {
    const PointSource source = s.sources.empty() ? PointSource{} : s.sources[i];
    j["texts"].push_back(escaped(source.text));
    j["anchors"].push_back(source.anchor);
  }
  return j;
}

Json axis_json(const std::string& label, bool log, AxisUnit unit, double low, double high,
               const std::optional<std::pair<double, double>>& range) {
  Json j{{"label", label}, {"min", low}, {"max", high}, {"log", false}};
  if (log && range && range->first > 0) {
    const BinaryAxis axis = binary_axis(range->first, range->second, unit);
    j["log"] = true;
    j["low"] = axis.low;
    j["high"] = axis.high;
    for (const auto& [value, text] : axis.ticks) {
      j["ticks"].push_back(Json::array({value, text}));
    }
  }
  return j;
}

Json panel_json(const Panel& panel) {
  Json j{{"title", panel.title},
         {"x", axis_json(panel.x_label, panel.x_log, panel.x_unit, 0, 0, x_range(panel))},
         {"y", axis_json(panel.y_label, panel.y_log, panel.y_unit, panel.y_min, panel.y_max,
                         y_range(panel))},
         {"mark", panel.x_mark > 0 ? Json(panel.x_mark) : Json()},
         {"series", Json::array()}};
  std::string name;  // series without a label belong to the one before
  for (std::size_t s = 0; s < panel.series.size(); ++s) {
    name = panel.series[s].label.empty() ? name : panel.series[s].label;
    j["series"].push_back(
        series_json(panel.series[s], panel.series[s].style.value_or(style_number(s)), name));
  }
  return j;
}

/// In an element of a script nothing may look like its end.
std::string script_text(std::string text) {
  for (std::size_t at = 0; (at = text.find("</", at)) != std::string::npos; at += 3) {
    text.insert(at + 1, "\\");
  }
  return text;
}

bool is_number(const std::string& text) {
  return !text.empty() && (std::isdigit(static_cast<unsigned char>(text[0])) != 0 ||
                           (text[0] == '-' && text.size() > 1));
}

/// Cells are HTML already.
std::string table_html(const std::vector<std::string>& header,
                       const std::vector<std::vector<std::string>>& rows, const std::string& name) {
  std::string out = fmt::format(
      "<div class=\"scroll tall\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">"
      "<table class=\"sortable\"><thead><tr>",
      escaped(name));
  std::vector<bool> right(header.size(), false);
  for (std::size_t c = 0; c < header.size(); ++c) {
    right[c] = std::ranges::all_of(
        rows, [&](const auto& row) { return row[c] == "-" || is_number(row[c]); });
    out += fmt::format("<th{}><button type=\"button\">{}</button></th>",
                       right[c] ? " class=\"number\"" : "", escaped(header[c]));
  }
  out += "</tr></thead><tbody>\n";
  for (const auto& row : rows) {
    out += "<tr>";
    for (std::size_t c = 0; c < row.size(); ++c) {
      out += fmt::format("<td{}>{}</td>", right[c] ? " class=\"number\"" : "", row[c]);
    }
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string fact(const ReportedRun& run, const std::string& name) {
  const auto at = std::ranges::find(run.result.provenance, name, &Provenance::value_type::first);
  return at == run.result.provenance.end() ? "" : at->second;
}

std::string link(const ReportedRun& run, const std::string& text) {
  return fmt::format("<a href=\"#{}\">{}</a>", run.anchor, escaped(text));
}

/// What was run, at a glance.
std::string facts_html(const ReportGroup& group) {
  std::map<std::string, std::set<std::string>> facts;
  double seconds = 0, tokens = 0;
  Index finished = 0;
  for (const ReportedRun& run : group.runs) {
    if (!run.finished()) {
      continue;
    }
    ++finished;
    seconds += run.result.wall_seconds;
    tokens += static_cast<double>(run.result.tokens);
    facts["models"].insert(run.result.model);
    facts["seeds"].insert(std::to_string(run.result.seed));
    for (const char* name : {"commit", "device", "cpu"}) {
      facts[name].insert(fact(run, name));
    }
  }
  std::string out = "<dl class=\"facts\">";
  const auto add = [&](const std::string& name, const std::string& value) {
    out += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", name, escaped(value));
  };
  add("runs", fmt::format("{} finished, {} failed", finished, std::ssize(group.runs) - finished));
  for (const char* name : {"models", "seeds", "commit", "device", "cpu"}) {
    std::string text;
    for (const std::string& value : facts[name]) {
      text += (text.empty() ? "" : ", ") + value;
    }
    add(name, text);
  }
  add("tokens", human_count(tokens));
  add("time, all runs together", human_seconds(seconds));
  add("folder", group.directory);
  return out + "</dl>\n";
}

std::string figure_html(const ReportSection& section, std::size_t f, const std::string& id) {
  const Figure& figure = section.figures[f];
  std::string out = fmt::format("<section id=\"{}\"><h3>{}</h3><p class=\"quiet\">{}</p>\n", id,
                                escaped(figure.title), escaped(figure.caption));
  if (plotly_js().empty()) {
    out += fmt::format(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\">"
        "<img class=\"picture\" alt=\"{0}\" src=\"data:image/svg+xml,{1}\"></div>\n",
        escaped(figure.title), as_address(section.pictures[f]));
  } else {
    out += "<div class=\"legend\" role=\"group\" aria-label=\"what is shown\"></div>\n";
    out += fmt::format("<div class=\"panels{}\">", figure.panels.size() == 1 ? " single" : "");
    for (const Panel& panel : figure.panels) {
      out += fmt::format(
          "<div class=\"panel\" role=\"img\" aria-label=\"{}: {} against {}; the "
          "numbers are below\"></div>",
          escaped(panel.title), escaped(panel.y_label), escaped(panel.x_label));
    }
    out += "</div>\n";
  }
  std::vector<std::vector<std::string>> rows;
  for (const Panel& panel : figure.panels) {
    std::string name;
    for (const Series& s : panel.series) {
      name = s.label.empty() ? name : s.label;
      for (std::size_t i = 0; i < s.x.size() && s.x.size() <= 200; ++i) {
        const PointSource source = s.sources.empty() ? PointSource{} : s.sources[i];
        const std::string from =
            source.anchor.empty()
                ? escaped(source.text)
                : fmt::format("<a href=\"#{}\">{}</a>", source.anchor, escaped(source.text));
        const auto shown = [](double v) {
          return std::isfinite(v) ? fmt::format("{:.6g}", v) : "-";
        };
        rows.push_back({escaped(panel.title), escaped(name), escaped(s.kind), shown(s.x[i]),
                        shown(s.y[i]), s.low.empty() ? "-" : shown(s.low[i]),
                        s.high.empty() ? "-" : shown(s.high[i]), from});
      }
    }
  }
  out +=
      "<details><summary>The numbers drawn, and the runs that they are of</summary>" +
      table_html({"panel", "series", "kind", "x", "y", "low", "high", "run"}, rows, figure.title) +
      "</details>\n<p class=\"quiet\">Files: ";
  for (const char* suffix : {"svg", "png", "pdf", "csv"}) {
    out += fmt::format("<a href=\"{}.{}\">{}</a> ", as_address(section.files[f]), suffix, suffix);
  }
  return out + "</p></section>\n";
}

std::string runs_table(const ReportGroup& group) {
  std::vector<std::string> header = {"run", "model"};
  header.insert(header.end(), group.axes.begin(), group.axes.end());
  header.insert(header.end(), {"seed", "rate", "reported", "updates", "metric", "value", "loss",
                               "parameters", "state bytes", "tokens/s", "seconds", "memory"});
  std::vector<std::vector<std::string>> rows;
  for (const ReportedRun& run : group.runs) {
    const RunResult& r = run.result;
    std::vector<std::string> row = {link(run, run.name), escaped(r.model)};
    for (const std::string& value : run.axes) {
      row.push_back(value.empty() ? "-" : escaped(value));
    }
    const Evaluation* e = run.finished() ? run.reported() : nullptr;
    const std::string metric = r.metrics.empty() ? "" : r.metrics.front();
    Sample value, loss;
    for (const SliceResult& s : e == nullptr ? std::vector<SliceResult>() : e->slices) {
      for (const auto& [name, to] : {std::pair{metric, &value}, {std::string("loss"), &loss}}) {
        if (const double* v = s.metrics.find(name)) {
          to->values.push_back(*v);
        }
      }
    }
    const auto shown = [](const Sample& s) {
      return s.values.empty() ? std::string("-") : fmt::format("{:.4f}", s.mean());
    };
    row.insert(row.end(),
               {std::to_string(r.seed), run.rate.empty() ? "-" : run.rate,
                !run.finished() ? "failed"
                : run.chosen    ? (run.edge ? "yes, edge" : "yes")
                                : "no",
                std::to_string(r.steps), metric.empty() ? "-" : metric, shown(value), shown(loss),
                std::to_string(r.parameters),
                r.state_sizes.empty() ? std::to_string(r.state.total())
                                      : std::to_string(r.state_sizes.back().bytes.total()),
                fmt::format("{:.0f}", r.tokens_per_s), fmt::format("{:.1f}", r.wall_seconds),
                human_bytes(static_cast<double>(r.memory_bytes))});
    rows.push_back(std::move(row));
  }
  return table_html(header, rows, "all runs of " + group.name);
}

std::string run_html(const ReportedRun& run, const std::string& directory) {
  std::error_code error;
  const std::string path = std::filesystem::relative(run.path, directory, error).string();
  std::string out = fmt::format(
      "<details class=\"run\" id=\"{}\"><summary>{}</summary>\n"
      "<p><a href=\"{}/\">{}</a></p>\n",
      run.anchor, escaped(run.name), as_address(path), escaped(path));
  if (!run.finished()) {
    return out + fmt::format("<p class=\"note\">{}</p></details>\n", escaped(run.error));
  }
  out += "<dl class=\"facts\">";
  for (const auto& [name, value] : run.result.provenance) {
    out += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", escaped(name), escaped(value));
  }
  const Json config = Json::parse(run.result.config, nullptr, false);
  return out + fmt::format("</dl>\n<pre tabindex=\"0\">{}</pre></details>\n",
                           escaped(config.is_object() ? config.dump(2) : run.result.config));
}

std::string section_html(const ReportSection& section, std::size_t number,
                         const std::string& directory) {
  const ReportGroup& group = *section.group;
  std::string out =
      fmt::format("<section id=\"group-{}\"><h2>{}</h2>\n", number, escaped(group.name));
  out += facts_html(group);
  for (const std::string& note : group.notes) {
    out += fmt::format("<p class=\"note\">{}</p>\n", escaped(note));
  }
  const auto table = [&](const ReportTable& t) {
    std::vector<std::vector<std::string>> rows = t.rows;
    for (auto& row : rows) {
      std::ranges::transform(row, row.begin(), escaped);
    }
    out +=
        fmt::format("<h3>{}</h3><p class=\"quiet\">{}</p>\n", escaped(t.title), escaped(t.caption));
    out += rows.empty() ? "" : table_html(t.header, rows, t.title);
  };
  if (!section.tables.empty()) {
    table(section.tables.front());
  }
  for (std::size_t f = 0; f < section.figures.size(); ++f) {
    out += figure_html(section, f, fmt::format("figure-{}-{}", number, section.figures[f].name));
  }
  for (std::size_t t = 1; t < section.tables.size(); ++t) {
    table(section.tables[t]);
  }
  out += "<h3>All runs</h3>\n" + runs_table(group) + "<h3>Configs and provenance</h3>\n";
  for (const ReportedRun& run : group.runs) {
    out += run_html(run, directory);
  }
  return out + "</section>\n";
}

}  // namespace

std::string report_page(const std::vector<ReportSection>& sections, const std::string& directory) {
  Json figures = Json::array();
  std::string body, contents, title;
  for (std::size_t n = 0; n < sections.size(); ++n) {
    const std::string& name = sections[n].group->name;
    contents += fmt::format("<li><a href=\"#group-{}\">{}</a></li>", n, escaped(name));
    title += (n == 0 ? "" : ", ") + name;
    for (const Figure& figure : sections[n].figures) {
      Json panels = Json::array();
      for (const Panel& panel : figure.panels) {
        panels.push_back(panel_json(panel));
      }
      figures.push_back({{"id", fmt::format("figure-{}-{}", n, figure.name)}, {"panels", panels}});
    }
    body += section_html(sections[n], n, directory);
  }
  std::string out = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<link rel=\"icon\" href=\"data:,\">\n<title>{0}</title>\n<style>\n{1}</style>\n</head>\n"
      "<body>\n<header><h1>{0}</h1>\n<nav aria-label=\"contents\"><ul>{2}</ul></nav></header>\n"
      "<main>\n{3}</main>\n<footer>Written by {4}. With fewer than five seeds each is a point; "
      "from five on bands and bars are 95 % intervals of the mean by bootstrap over seeds. "
      "Hollow marks are published points.{5}</footer>\n",
      escaped(title), page_css(), contents, body, escaped(version_line()),
      plotly_js().empty() ? " This build has no Plotly, so figures are pictures." : "");
  out += "<script type=\"application/json\" id=\"figures\">" + script_text(figures.dump()) +
         "</script>\n";
  if (!plotly_js().empty()) {
    out += "<script>" + script_text(std::string(plotly_js())) + "</script>\n";
  }
  return out + "<script>\n" + std::string(page_js()) + "</script>\n</body>\n</html>\n";
}

}  // namespace ls::experiments
