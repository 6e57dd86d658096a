#include "experiments/training_log.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/error.h"

namespace ls::experiments {

using Json = nlohmann::ordered_json;

void to_json(Json& j, const TrainingLog::Best& b) {
  j = {{"metric", b.metric}, {"value", b.value}, {"step", b.step}};
}

void from_json(const Json& j, TrainingLog::Best& b) {
  b = {j.at("metric"), j.at("value"), j.at("step")};
}

std::string LogLine::json() const {
  Json j;
  LogLine line = *this;
  line.for_each_column([&](const std::string& name, double value) {
    const bool count = name == "step" || name == "tokens" || name == "memory_bytes";
    if (name == "without_targets" && value == 0) {
      return;
    }
    j[name] = count || name == "without_targets" ? Json(static_cast<Index>(value))
              : std::isfinite(value)             ? Json(value)
                                                 : Json();
  });
  return j.dump();
}

std::optional<LogLine> LogLine::from_json(const std::string& line) {
  const Json j = Json::parse(line, nullptr, false);
  if (!j.is_object() || !j.contains("step") || j.contains("eval")) {
    return std::nullopt;
  }
  LogLine out;
  out.for_each_column([&](const char* name, double& value) {
    const auto at = j.find(name);
    value = at == j.end() ? 0 : at->is_number() ? at->get<double>() : NAN;
  });
  return out;
}

std::string TrainingLog::json() const {
  return Json{{"smooth_loss", smooth_loss ? Json(*smooth_loss) : Json()},
              {"window",
               {{"loss", window.loss},
                {"updates", window.updates},
                {"without_targets", window.without_targets},
                {"tokens", window.tokens},
                {"seconds", window.seconds}}},
              {"data_wait_share", data_wait_share},
              {"forms", forms},
              {"best", best ? Json(*best) : Json()}}
      .dump();
}

TrainingLog TrainingLog::from_json(const std::string& text, const std::string& path) {
  try {
    const Json j = Json::parse(text);
    const Json& w = j.at("window");
    TrainingLog log{.window = {.loss = w.at("loss"),
                               .updates = w.at("updates"),
                               .without_targets = w.at("without_targets"),
                               .tokens = w.at("tokens"),
                               .seconds = w.at("seconds")},
                    .data_wait_share = j.at("data_wait_share"),
                    .forms = j.at("forms")};
    if (j.at("smooth_loss").is_number()) {
      log.smooth_loss = j.at("smooth_loss").get<double>();
    }
    if (!j.at("best").is_null()) {
      log.best = j.at("best").get<Best>();
    }
    return log;
  } catch (const Json::exception& e) {
    LS_FAIL(kIo, "{}: what it says of the training so far cannot be read: {}", path, e.what());
  }
}

}  // namespace ls::experiments
