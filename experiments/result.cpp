#include "experiments/result.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

using Json = nlohmann::ordered_json;

namespace ls::layers {
// Here, where the library looks for them.
static void to_json(Json& j, const StateBytes& s) {
  j = {{"matrix", s.matrix},
       {"vector", s.vector},
       {"conv", s.conv},
       {"kv", s.kv},
       {"total", s.total()}};
}
static void from_json(const Json& j, StateBytes& s) {
  s = {j.at("matrix"), j.at("vector"), j.at("conv"), j.at("kv")};
}
}  // namespace ls::layers

namespace ls::data {
void to_json(Json& j, const DataIdentity& d) {
  j = {{"field", d.field},
       {"files", d.files},
       {"bytes", d.bytes},
       {"names", d.names},
       {"content", d.content}};
}
void from_json(const Json& j, DataIdentity& d) {
  d = {j.at("field"), j.at("files"), j.at("bytes"), j.at("names"), j.at("content")};
}
}  // namespace ls::data

namespace ls::experiments {

static void to_json(Json& j, const StateSize& s) {
  j = {{"tokens", s.tokens}, {"bytes", s.bytes}};
}
static void from_json(const Json& j, StateSize& s) {
  s = {j.at("tokens"), j.at("bytes").get<layers::StateBytes>()};
}

namespace {

double number(const Json& j) {
  return j.is_number() ? j.get<double>() : NAN;
}

/// Calls f(name, member) for the facts of a result, in their order.
template <class Result, class F>
void for_each_field(Result& r, F&& f) {
  f("run", r.run);
  f("model", r.model);
  f("metrics", r.metrics);
  f("seed", r.seed);
  f("complete", r.complete);
  f("stopped_early", r.stopped_early);
  f("part_hash", r.part_hash);
  f("parameters", r.parameters);
  f("steps", r.steps);
  f("tokens", r.tokens);
  f("train_seconds", r.train_seconds);
  f("wall_seconds", r.wall_seconds);
  f("tokens_per_s", r.tokens_per_s);
  f("data_wait_share", r.data_wait_share);
  f("train_loss", r.train_loss);
  f("train_length", r.train_length);
  f("state_tokens", r.state_tokens);
  f("state_bytes", r.state);
  f("state_sizes", r.state_sizes);
  f("zoology_state_bytes", r.zoology_state);
  f("memory_bytes", r.memory_bytes);
  f("scan_forms", r.forms);
  f("data", r.data);
}

/// Results without these are read all the same.
bool added_later(std::string_view name) {
  return name == "state_sizes" || name == "zoology_state_bytes" || name == "memory_bytes" ||
         name == "stopped_early";
}

}  // namespace

const double* Metrics::find(const std::string& name) const {
  const auto it = std::ranges::find(values, name, &std::pair<std::string, double>::first);
  return it == values.end() ? nullptr : &it->second;
}

double Metrics::at(const std::string& name) const {
  const double* value = find(name);
  LS_CHECK(value != nullptr, kInternal, "no metric '{}'", name);
  return *value;
}

const SliceResult* Evaluation::find(const std::string& slice) const {
  const auto it = std::ranges::find(slices, slice, &SliceResult::name);
  return it == slices.end() ? nullptr : &*it;
}

static void to_json(Json& j, const SliceResult& s) {
  j = {{"slice", s.name}, {"length", s.length}};
  j["setting"] = Json::object();
  for (const auto& [name, value] : s.setting) {
    j["setting"][name] = value;
  }
  j["examples"] = s.examples;
  if (s.left_out > 0) {
    j["left_out"] = s.left_out;
  }
  if (!s.not_run.empty()) {
    j["not_run"] = s.not_run;
  }
  j["labels"] = s.labels;
  j["metrics"] = Json::object();
  for (const auto& [name, value] : s.metrics.values) {
    j["metrics"][name] = value;
  }
  Json& p = j["positions"];
  for (const char* column : {"from", "to", "labels", "loss", "accuracy"}) {
    p[column] = Json::array();
  }
  for (const PositionRange& range : s.positions) {
    p["from"].push_back(range.from);
    p["to"].push_back(range.to);
    p["labels"].push_back(range.labels);
    p["loss"].push_back(range.loss);
    p["accuracy"].push_back(range.accuracy);
  }
}

static void from_json(const Json& j, SliceResult& s) {
  s = {.name = j.at("slice"),
       .length = j.at("length"),
       .examples = j.value("examples", Index{0}),
       .left_out = j.value("left_out", Index{0}),
       .not_run = j.value("not_run", std::string()),
       .labels = j.at("labels")};
  for (const auto& [name, value] : j.at("setting").items()) {
    s.setting.emplace_back(name, value);
  }
  for (const auto& [name, value] : j.at("metrics").items()) {
    s.metrics.values.emplace_back(name, number(value));
  }
  const Json& p = j.at("positions");
  for (std::size_t i = 0; i < p.at("from").size(); ++i) {
    s.positions.push_back({.from = p.at("from").at(i),
                           .to = p.at("to").at(i),
                           .labels = p.at("labels").at(i),
                           .loss = number(p.at("loss").at(i)),
                           .accuracy = number(p.at("accuracy").at(i))});
  }
}

void to_json(Json& j, const Evaluation& e) {
  j = {{"step", e.step}, {"split", enum_name(e.split)}, {"eval", e.slices}};
}

void from_json(const Json& j, Evaluation& e) {
  e = {j.at("step"),
       parse_enum<data::Split>(j.at("split").get<std::string>()),
       {},
       j.value("seconds", 0.0)};
  j.at("eval").get_to(e.slices);
}

std::string RunResult::mixers() const {
  const Json j = Json::parse(config, nullptr, false);
  const Json models = j.is_object() ? j.value("models", Json::array()) : Json::array();
  for (const Json& m : models) {
    if (models.size() > 1 && m.value("name", "") != model) {
      continue;
    }
    std::vector<std::string> names;
    for (const Json& layer : m.value("layers", Json::array())) {
      const std::string name =
          layer.is_object() ? layer.value("name", "") : layer.get<std::string>();
      if (std::ranges::find(names, name) == names.end()) {
        names.push_back(name);
      }
    }
    if (!names.empty()) {
      return fmt::format("{}", fmt::join(names, "+"));
    }
  }
  return model;
}

Json RunResult::facts() const {
  Json j;
  for_each_field(*this, [&](const char* name, const auto& value) { j[name] = value; });
  j["best"] = best ? Json(*best) : Json();
  j["provenance"] = Json::object();
  for (const auto& [name, value] : provenance) {
    j["provenance"][name] = value;
  }
  j["config"] = Json::parse(config);
  return j;
}

RunResult RunResult::from_facts(const Json& j) {
  RunResult r;
  for_each_field(r, [&]<class T>(const char* name, T& value) {
    if (!j.contains(name) && added_later(name)) {
      return;
    }
    if constexpr (std::is_same_v<T, double>) {
      value = number(j.at(name));
    } else {
      j.at(name).get_to(value);
    }
  });
  if (!j.at("best").is_null()) {
    r.best = j.at("best").get<TrainingLog::Best>();
  }
  for (const auto& [name, value] : j.at("provenance").items()) {
    r.provenance.emplace_back(name, value);
  }
  r.config = j.at("config").dump();
  return r;
}

RunResult RunResult::from_json(const std::string& text, const std::string& path) {
  try {
    const Json j = Json::parse(text);
    RunResult r = from_facts(j);
    j.at("history").get_to(r.history);
    return r;
  } catch (const std::exception& e) {
    LS_FAIL(kIo,
            "{}: is not a result of this program ({}); move it away and use --resume, which "
            "makes it again from the checkpoint",
            path, e.what());
  }
}

}  // namespace ls::experiments
