#include "experiments/result.h"

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
namespace {

double number(const Json& j) {
  return j.is_number() ? j.get<double>() : NAN;
}

/// Calls f(name, member) for what result.json holds, in its order.
template <class Result, class F>
void for_each_field(Result& r, F&& f) {
  f("run", r.run);
  f("model", r.model);
  f("metrics", r.metrics);
  f("seed", r.seed);
  f("complete", r.complete);
  f("part_hash", r.part_hash);
  f("parameters", r.parameters);
  f("steps", r.steps);
  f("tokens", r.tokens);
  f("train_seconds", r.train_seconds);
  f("wall_seconds", r.wall_seconds);
  f("tokens_per_s", r.tokens_per_s);
  f("data_wait_share", r.data_wait_share);
  f("train_loss", r.train_loss);
  f("state_tokens", r.state_tokens);
  f("state_bytes", r.state);
  f("scan_forms", r.forms);
  f("history", r.history);
  f("data", r.data);
}

}  // namespace

void to_json(Json& j, const Evaluation& e) {
  j = {{"step", e.step}, {"split", enum_name(e.split)}, {"eval", e.slices}};
}

void from_json(const Json& j, Evaluation& e) {
  e = {j.at("step"), parse_enum<data::Split>(j.at("split").get<std::string>()), {}};
  for (const auto& [slice, metrics] : j.at("eval").items()) {
    for (const auto& [name, value] : metrics.items()) {
      e.slices[slice][name] = number(value);
    }
  }
}

std::string RunResult::json() const {
  Json j;
  for_each_field(*this, [&](const char* name, const auto& value) { j[name] = value; });
  for (const auto& [name, value] : provenance) {
    j["provenance"][name] = value;
  }
  j["config"] = Json::parse(config);
  return j.dump(2) + "\n";
}

RunResult RunResult::from_json(const std::string& text, const std::string& path) {
  RunResult r;
  try {
    const Json j = Json::parse(text);
    for_each_field(r, [&]<class T>(const char* name, T& value) {
      if constexpr (std::is_same_v<T, double>) {
        value = number(j.at(name));
      } else {
        j.at(name).get_to(value);
      }
    });
    for (const auto& [name, value] : j.at("provenance").items()) {
      r.provenance.emplace_back(name, value);
    }
    r.config = j.at("config").dump();
  } catch (const std::exception& e) {
    LS_FAIL(kIo,
            "{}: is not a result of this program ({}); move it away and use --resume, which "
            "makes it again from the checkpoint",
            path, e.what());
  }
  return r;
}

}  // namespace ls::experiments
