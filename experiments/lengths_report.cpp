#include "experiments/lengths_report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/log.h"
#include "core/io/files.h"
#include "experiments/csv.h"
#include "experiments/figure.h"
#include "experiments/heat_map.h"
#include "experiments/progress.h"
#include "experiments/table.h"

using Json = nlohmann::ordered_json;

namespace ls::experiments {
namespace {

Json number(double x) {
  return std::isfinite(x) ? Json(x) : Json();
}

/// A list of records as JSON, each an object of the same names.
Json positions_json(const LengthStudy& s) {
  Json out = Json::array();
  for (const PositionRecord& p : s.positions) {
    out.push_back({{"slice", p.slice},
                   {"from", p.range.from},
                   {"to", p.range.to},
                   {"labels", p.range.labels},
                   {"loss", number(p.range.loss)},
                   {"accuracy", number(p.range.accuracy)}});
  }
  return out;
}
Json states_json(const LengthStudy& s) {
  Json out = Json::array();
  for (const StateRecord& r : s.states) {
    out.push_back({{"tokens", r.tokens},
                   {"slot", r.slot},
                   {"part", enum_name(r.part)},
                   {"head", r.head},
                   {"norm", number(r.norm)},
                   {"rms", number(r.rms)},
                   {"effective_rank", number(r.effective_rank)}});
  }
  return out;
}
Json remembrance_json(const LengthStudy& s) {
  Json out = Json::array();
  for (const RemembranceRecord& r : s.remembrance) {
    out.push_back({{"read", r.read},
                   {"dropped", r.dropped},
                   {"total_variation", number(r.total_variation)},
                   {"examples", r.examples}});
  }
  return out;
}
Json spread_json(const LengthStudy& s) {
  Json out = Json::array();
  for (const SpreadRecord& r : s.spread) {
    out.push_back({{"from", r.from},
                   {"to", r.to},
                   {"labels", r.labels},
                   {"classes", r.classes},
                   {"within", number(r.within)},
                   {"between", number(r.between)},
                   {"ratio", number(r.within / r.between)},
                   {"accuracy", number(r.accuracy)}});
  }
  return out;
}
Json lengths_json(const LengthStudy& s) {
  Json out = Json::array();
  const Json slices = Json(Evaluation{.step = s.step, .split = s.split, .slices = [&] {
                                        std::vector<SliceResult> list;
                                        for (const LengthRow& row : s.rows) {
                                          list.push_back(row.result);
                                        }
                                        return list;
                                      }()})["eval"];
  for (std::size_t i = 0; i < s.rows.size(); ++i) {
    Json row = slices[i];
    const layers::StateBytes& b = s.rows[i].state;
    row["state_bytes"] = {{"matrix", b.matrix},
                          {"vector", b.vector},
                          {"conv", b.conv},
                          {"kv", b.kv},
                          {"total", b.total()}};
    out.push_back(std::move(row));
  }
  return out;
}

/// One line an object, whose names are the header; inner objects as "outer.inner".
std::string csv(const Json& records) {
  std::vector<std::string> columns;
  std::vector<std::map<std::string, std::string>> rows;
  for (const Json& record : records) {
    auto& row = rows.emplace_back();
    const auto add = [&](const std::string& name, const Json& value) {
      if (std::ranges::find(columns, name) == columns.end()) {
        columns.push_back(name);
      }
      row[name] = value.is_null()     ? ""
                  : value.is_string() ? value.get<std::string>()
                                      : value.dump();
    };
    for (const auto& [name, value] : record.items()) {
      if (name == "positions") {
        continue;  // positions.csv has them, in narrower ranges
      }
      if (value.is_object()) {
        for (const auto& [inner, of_inner] : value.items()) {
          add(name == "metrics" ? inner : name + "." + inner, of_inner);
        }
      } else {
        add(name, value);
      }
    }
  }
  std::string text = csv_line(columns);
  for (auto& row : rows) {
    std::vector<std::string> cells;
    for (const std::string& column : columns) {
      cells.push_back(row[column]);
    }
    text += csv_line(cells);
  }
  return text;
}

std::string setting_text(const data::SliceSetting& setting) {
  std::string text;
  for (const auto& [name, value] : setting) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, value);
  }
  return text;
}

const std::pair<std::string, double>* headline(const SliceResult& s) {
  return s.metrics.values.empty() ? nullptr : &s.metrics.values.front();
}

/// Lengths that were not run, as one line.
std::string not_run_text(const LengthStudy& study) {
  std::set<std::string> named;
  std::string text;
  for (const LengthRow& row : study.rows) {
    if (!row.result.not_run.empty() && named.insert(row.result.name).second) {
      text += fmt::format("{}{}: not run, {}", text.empty() ? "" : "; ", row.result.length,
                          row.result.not_run);
    }
  }
  return text;
}

double middle(Index from, Index to) {
  return std::sqrt(static_cast<double>(from) * static_cast<double>(to));
}

Panel panel_of(const LengthStudy& study, const std::string& title, const std::string& x,
               const std::string& y) {
  return {.title = title,
          .x_label = x,
          .y_label = y,
          .x_log = true,
          .x_mark = static_cast<double>(study.train_length),
          .x_unit = AxisUnit::kTokens};
}

/// The first metric by length; a length that was not run is a mark at the foot of the panel.
Panel length_panel(const LengthStudy& study) {
  Panel panel = panel_of(study, "by length", "length in tokens", "");
  std::map<std::string, Series> lines;
  Series missing{.label = "not run", .drawn = Drawn::kMarks, .hollow = true, .kind = "not run"};
  double least = INFINITY;
  for (const LengthRow& row : study.rows) {
    const SliceResult& s = row.result;
    if (const auto* metric = headline(s)) {
      panel.y_label = metric->first;
      Series& line = lines[setting_text(s.setting)];
      line.x.push_back(static_cast<double>(s.length));
      line.y.push_back(metric->second);
      least = std::min(least, metric->second);
    } else {
      missing.x.push_back(static_cast<double>(s.length));
    }
  }
  for (auto& [setting, line] : lines) {
    line.label = setting.empty() ? study.model : setting;
    panel.series.push_back(std::move(line));
  }
  if (!missing.x.empty()) {
    missing.y.assign(missing.x.size(), std::isfinite(least) ? least : 0);
    panel.series.push_back(std::move(missing));
  }
  if (panel.y_label.find("acc") != std::string::npos) {
    panel.y_max = 1.02;
  }
  return panel;
}

/// Loss or accuracy by position, of the longest slice of each setting that was run.
Panel position_panel(const LengthStudy& study, bool loss) {
  Panel panel = panel_of(study, loss ? "loss by position" : "accuracy by position", "tokens read",
                         loss ? "loss" : "tok_acc");
  panel.y_max = loss ? 0 : 1.02;
  std::map<std::string, const SliceResult*> longest;
  for (const LengthRow& row : study.rows) {
    if (row.result.not_run.empty()) {
      const SliceResult*& s = longest[setting_text(row.result.setting)];
      s = s == nullptr || s->length < row.result.length ? &row.result : s;
    }
  }
  for (const auto& [setting, slice] : longest) {
    Series line{.label = slice->name};
    for (const PositionRecord& p : study.positions) {
      if (p.slice == slice->name) {
        line.x.push_back(middle(p.range.from, p.range.to));
        line.y.push_back(loss ? p.range.loss : p.range.accuracy);
      }
    }
    panel.series.push_back(std::move(line));
  }
  return panel;
}

/// Norm or effective rank of each slot, mean over heads.
Panel state_panel(const LengthStudy& study, bool norm) {
  Panel panel = panel_of(study, norm ? "norm of states" : "effective rank of states", "tokens read",
                         norm ? "norm" : "effective rank");
  std::map<std::string, std::map<Index, std::pair<double, double>>> sums;  // sum, heads
  for (const StateRecord& r : study.states) {
    const double v = norm ? r.norm : r.effective_rank;
    if (std::isfinite(v) || norm) {
      auto& [sum, n] = sums[r.slot][r.tokens];
      sum += v;
      n += 1;
    }
  }
  for (const auto& [slot, curve] : sums) {
    Series line{.label = slot};
    for (const auto& [tokens, sum] : curve) {
      line.x.push_back(static_cast<double>(tokens));
      line.y.push_back(sum.first / sum.second);
    }
    panel.series.push_back(std::move(line));
  }
  return panel;
}

std::vector<Panel> panels_of(const LengthStudy& study) {
  std::vector<Panel> panels = {length_panel(study), position_panel(study, true),
                               position_panel(study, false)};
  for (const bool norm : {true, false}) {
    Panel panel = state_panel(study, norm);
    if (!panel.series.empty()) {
      panels.push_back(std::move(panel));
    }
  }
  if (!study.remembrance.empty()) {
    Panel panel{.title = fmt::format("effective remembrance after {} tokens",
                                     study.remembrance.front().read),
                .x_label = "first tokens left out",
                .y_label = "total variation",
                .series = {{.label = study.model}},
                .y_max = 1,
                .x_log = true,
                .x_unit = AxisUnit::kTokens};
    for (const RemembranceRecord& r : study.remembrance) {
      panel.series[0].x.push_back(static_cast<double>(r.dropped));
      panel.series[0].y.push_back(r.total_variation);
    }
    panels.push_back(std::move(panel));
  }
  if (!study.spread.empty()) {
    Panel panel =
        panel_of(study, "spread of states within classes over between", "tokens read", "ratio");
    Series ratio{.label = study.model}, limit{.label = "no longer read"};
    for (const SpreadRecord& r : study.spread) {
      ratio.x.push_back(middle(r.from, r.to));
      ratio.y.push_back(r.within / r.between);
      limit.x.push_back(ratio.x.back());
      limit.y.push_back(study.horizon ? study.horizon->threshold : NAN);
    }
    panel.series = {std::move(ratio), std::move(limit)};
    panels.push_back(std::move(panel));
  }
  return panels;
}

std::string at_text(double tokens, Index train_length) {
  if (!std::isfinite(tokens)) {
    return "never";
  }
  return fmt::format("{:.3g} tokens ({:.3g}x)", tokens,
                     tokens / static_cast<double>(std::max<Index>(1, train_length)));
}

/// Rows: slot; columns: norm and effective rank, mean over heads, after as many tokens as in
/// training and after the most.
std::string states_table(const LengthStudy& study, int width) {
  struct Sum {
    double norm = 0, rank = 0, heads = 0;
  };
  std::map<std::string, std::map<Index, Sum>> slots;
  std::set<Index> places;
  for (const StateRecord& r : study.states) {
    Sum& s = slots[r.slot][r.tokens];
    s.norm += r.norm;
    s.rank += r.effective_rank;
    s.heads += 1;
    places.insert(r.tokens);
  }
  if (places.empty()) {
    return "";
  }
  const Index last = *places.rbegin();
  const auto in = places.upper_bound(study.train_length);
  const Index first = in == places.begin() ? *in : *std::prev(in);
  const auto shown = [](double v) { return std::isfinite(v) ? fmt::format("{:.3g}", v) : "-"; };
  Table t({"state", "heads", fmt::format("norm at {}", first), fmt::format("at {}", last),
           fmt::format("effective rank at {}", first), fmt::format("at {}", last)});
  for (const auto& [slot, by_place] : slots) {
    const auto at = [&](Index place) {
      const auto it = by_place.find(place);
      return it == by_place.end() ? Sum{NAN, NAN, 1} : it->second;
    };
    const Sum a = at(first), b = at(last);
    t.add({slot, fmt::format("{}", by_place.begin()->second.heads), shown(a.norm / a.heads),
           shown(b.norm / b.heads), shown(a.rank / a.heads), shown(b.rank / b.heads)});
  }
  return t.str(width);
}

constexpr const char* kDepth = "depth_percent";

std::optional<Index> depth_of(const SliceResult& s) {
  const auto it = std::ranges::find(s.setting, kDepth, &data::SliceSetting::value_type::first);
  return it == s.setting.end() ? std::nullopt : std::optional(it->second);
}

/// One record a slice that has a depth; of several with one length and depth, which differ in what
/// else they ask, the map shows the mean.
Json depths_json(const LengthStudy& study) {
  Json out = Json::array();
  for (const LengthRow& row : study.rows) {
    const SliceResult& s = row.result;
    if (const std::optional<Index> depth = depth_of(s)) {
      const auto* metric = headline(s);
      out.push_back({{"slice", s.name},
                     {"length", s.length},
                     {kDepth, *depth},
                     {"metric", metric ? Json(metric->first) : Json()},
                     {"value", metric ? number(metric->second) : Json()},
                     {"examples", s.examples},
                     {"not_run", s.not_run}});
    }
  }
  return out;
}

HeatMap depth_map(const LengthStudy& study, const Json& depths) {
  std::map<Index, std::map<Index, std::pair<double, double>>> sums;  // depth, length: sum, slices
  std::set<Index> lengths;
  HeatMap map{.title = study.model + ": by depth and length",
              .x_label = "length in tokens",
              .y_label = "depth in %"};
  for (const Json& d : depths) {
    lengths.insert(d.at("length").get<Index>());
    auto& [sum, n] = sums[d.at(kDepth).get<Index>()][d.at("length").get<Index>()];
    if (d.at("value").is_number()) {
      map.value_label = d.at("metric").get<std::string>();
      sum += d.at("value").get<double>();
      n += 1;
    }
  }
  for (const Index length : lengths) {
    map.x.push_back(std::to_string(length));
  }
  for (auto& [depth, row] : sums) {
    map.y.push_back(std::to_string(depth));
    auto& cells = map.values.emplace_back();
    for (const Index length : lengths) {
      cells.push_back(row[length].first / row[length].second);  // 0 / 0 where it was not run
    }
  }
  return map;
}

}  // namespace

std::string lengths_text(const LengthStudy& study, int width) {
  std::string text = states_table(study, width);
  if (study.collapse) {
    const Collapse& c = *study.collapse;
    text +=
        fmt::format("loss past {} tokens: at most {:.3f}, {} twice the largest within ({:.3f}){}\n",
                    study.train_length, c.worst, c.found ? "above" : "below", c.inside,
                    c.found ? fmt::format(": the state collapses from {} on", c.at) : "");
    text += c.rises_at > 0
                ? fmt::format("it is 5 % above the smallest within from {} on\n",
                              at_text(static_cast<double>(c.rises_at), study.train_length))
                : "it stays within 5 % of the smallest within\n";
  }
  if (!study.remembrance_not_run.empty()) {
    text += fmt::format("effective remembrance not run: {}\n", study.remembrance_not_run);
  }
  if (!study.remembrance.empty()) {
    const Index read = study.remembrance.front().read;
    const auto half = std::ranges::find(study.remembrance, read / 2, &RemembranceRecord::dropped);
    const RemembranceRecord& r =
        half == study.remembrance.end() ? study.remembrance.front() : *half;
    text += fmt::format(
        "effective remembrance after {} tokens: without the first {} the prediction differs by "
        "{:.3f} (total variation, {} examples)\n",
        read, r.dropped, r.total_variation, r.examples);
  }
  if (study.horizon) {
    const Horizon& h = *study.horizon;
    text += fmt::format(
        "accuracy below {}: the spread of states within the training length says {}, measured {}\n",
        h.level,
        std::isnan(h.predicted) ? "nothing (too few positions)"
                                : at_text(h.predicted, study.train_length),
        h.measured > 0 ? at_text(static_cast<double>(h.measured), study.train_length) : "nowhere");
  }
  return text;
}

void to_json(Json& j, const LengthStudy& s) {
  j = {{"model", s.model},
       {"step", s.step},
       {"split", enum_name(s.split)},
       {"train_length", s.train_length},
       {"lengths", lengths_json(s)},
       {"positions", positions_json(s)},
       {"states", states_json(s)},
       {"remembrance", remembrance_json(s)},
       {"remembrance_not_run", s.remembrance_not_run},
       {"spread", spread_json(s)}};
  j["collapse"] =
      s.collapse
          ? Json{{"found", s.collapse->found},           {"at", s.collapse->at},
                 {"inside", number(s.collapse->inside)}, {"limit", number(s.collapse->limit)},
                 {"worst", number(s.collapse->worst)},   {"rises_at", s.collapse->rises_at}}
          : Json();
  j["horizon"] = s.horizon ? Json{{"level", s.horizon->level},
                                  {"threshold", number(s.horizon->threshold)},
                                  {"predicted", number(s.horizon->predicted)},
                                  {"measured", s.horizon->measured}}
                           : Json();
}

std::string lengths_figure(const LengthStudy& study, const std::string& path) {
  const std::vector<Panel> panels = panels_of(study);
  replace_file(path + ".csv", figure_csv(panels));
  const std::string why =
      draw_figure(path, panels, {.note = not_run_text(study), .png = true, .pdf = true});
  if (!why.empty()) {
    log_warn("no figure: " + why);
    return "";
  }
  return path + ".svg";
}

std::vector<std::string> write_lengths(const LengthStudy& study, const std::string& directory) {
  create_directories(directory);
  std::vector<std::string> paths;
  const auto write = [&](const std::string& name, const std::string& text) {
    paths.push_back(directory + "/" + name);
    replace_file(paths.back(), text);
  };
  const Json j = study;
  write("lengths.json", j.dump(2) + "\n");
  for (const char* list : {"lengths", "positions", "states", "remembrance", "spread"}) {
    if (!j[list].empty()) {
      write(std::string(list) + ".csv", csv(j[list]));
    }
  }
  if (const Json depths = depths_json(study); !depths.empty()) {
    write("depths.csv", csv(depths));
    write("depths.svg", heat_map_svg(depth_map(study, depths)));
  }
  if (const std::string figure = lengths_figure(study, directory + "/figure"); !figure.empty()) {
    paths.push_back(figure);
  }
  return paths;
}

}  // namespace ls::experiments
