#include "experiments/sweep/match.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "experiments/evaluate.h"
#include "experiments/model_io.h"
#include "layers/shapes_only.h"

namespace ls::experiments {
namespace {

constexpr double kTolerance = 0.05;
constexpr Index kLargest = 1 << 16;                // of the field
constexpr Index kMostParameters = Index{1} << 28;  // of a model that is tried
constexpr Index kAround = 64;  // values that are tried on each side of where the size is met

/// Has a component a whole number of this name?
class HasField final : public FieldVisitor {
 public:
  explicit HasField(std::string name) : name_(std::move(name)) {}
  bool found = false;

 protected:
  void field(std::string_view name, const Value& value, const FieldOptions&) override {
    const auto* items = value.as<ItemsValue>();
    const bool optional = items != nullptr && items->optional();
    found |= name == name_ && (value.as<Index>() != nullptr || optional);
  }

 private:
  std::string name_;
};

bool has_field(SectionValue& section, const std::string& name) {
  HasField f(name);
  section.visit(f);
  return f.found;
}

/// The paths in the model that a name stands for.
std::vector<std::string> paths_of(RunModel model, const std::string& name) {
  if (name.find('.') != std::string::npos) {
    return {name};
  }
  detail::SectionOf<RunModel> section(model);
  if (has_field(section, name)) {
    return {name};
  }
  std::vector<std::string> out;
  for (std::size_t l = 0; l < model.layers.size(); ++l) {
    if (has_field(model.layers[l].config(), name)) {
      out.push_back(fmt::format("layers.{}.{}", l, name));
    }
  }
  return out;
}

class Solver {
 public:
  Solver(const MatchConfig& match, const RunConfig& config, const data::Task& task,
         std::vector<std::string> paths)
      : match_(match),
        text_(dump_yaml(config)),
        task_(task),
        paths_(std::move(paths)),
        at_(match.at > 0 ? match.at : longest_training_example(task)) {}

  double wanted() const {
    return static_cast<double>(match_.state_bytes ? *match_.state_bytes : *match_.parameters);
  }

  RunConfig with(Index value) const {
    std::vector<std::string> overrides;
    for (const std::string& path : paths_) {
      overrides.push_back(fmt::format("models.0.{}={}", path, value));
    }
    return read_config_text<RunConfig>(text_, "match", overrides);
  }

  /// nullopt where the model cannot have this value.
  std::optional<double> size(Index value) {
    const auto known = sizes_.find(value);
    if (known != sizes_.end()) {
      return known->second;
    }
    std::optional<double> out;
    try {
      const RunConfig config = with(value);
      const Index parameters = [&] {
        const layers::ShapesOnly shapes;
        return layers::Model(config.models.front(), model_interface(task_), 0).parameters().count();
      }();
      LS_CHECK(parameters <= kMostParameters, kConfig, "{} parameters with {}", parameters, value);
      out = static_cast<double>(parameters);
      if (match_.state_bytes) {
        layers::Model model(config.models.front(), model_interface(task_), 0);
        out = static_cast<double>(model.measure_state(at_).total());
      }
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kConfig && e.kind() != ErrorKind::kShape) {
        throw;
      }
      fault_ = e.message();
    }
    return sizes_[value] = out;
  }

  /// The value whose size is nearest, 0 where the model can have none.
  Index solve() {
    Index below = 0, above = 0;  // powers of two around what is asked for
    for (Index v = 1; v <= kLargest && above == 0; v *= 2) {
      if (const std::optional<double> s = size(v)) {
        (*s < wanted() ? below : above) = v;
      }
    }
    if (below == 0 && above == 0) {
      return 0;
    }
    Index low = std::max<Index>(1, below), high = above == 0 ? low : above;
    while (high - low > kAround) {
      // Not every value can be had: the nearest to the middle that can.
      const Index middle = low + (high - low) / 2;
      std::optional<Index> tried;
      for (Index d = 0; d < (high - low) / 2 && !tried; ++d) {
        for (const Index v : {middle + d, middle - d}) {
          tried = size(v) ? std::optional(v) : tried;
        }
      }
      if (!tried || *tried <= low || *tried >= high) {
        break;
      }
      (*size(*tried) < wanted() ? low : high) = *tried;
    }
    Index best = 0;
    for (Index v = low; v <= std::min(high, low + 4 * kAround); ++v) {
      const std::optional<double> s = size(v);
      if (s && (best == 0 || off(v) < off(best))) {
        best = v;
      }
    }
    for (const Index v : {below, above}) {
      if (v > 0 && (best == 0 || off(v) < off(best))) {
        best = v;
      }
    }
    return best;
  }
  /// Relative distance from what is asked for.
  double off(Index value) { return std::abs(*size(value) / wanted() - 1); }
  Index at() const { return at_; }
  const std::string& fault() const { return fault_; }

 private:
  const MatchConfig& match_;
  std::string text_;
  const data::Task& task_;
  std::vector<std::string> paths_;
  Index at_;
  std::map<Index, std::optional<double>> sizes_;
  std::string fault_;  // of the last value that the model cannot have
};

}  // namespace

void match_model(const MatchConfig& match, RunConfig& config, const data::Task& task,
                 const std::string& model) {
  std::vector<std::string> paths;
  std::string by;
  for (const char c : match.by + ",") {
    if (c == ',' && !by.empty()) {
      paths = paths.empty() ? paths_of(config.models.front(), by) : paths;
      by.clear();
    } else if (c != ',' && c != ' ') {
      by += c;
    }
  }
  LS_CHECK(!paths.empty(), kConfig,
           "match.by: neither the model '{}' nor its mixers have a whole number '{}'; longscan "
           "describe MIXER lists fields, and several names stand with commas between",
           model, match.by);
  Solver solver(match, config, task, paths);
  const Index value = solver.solve();
  const std::string what = match.state_bytes ? fmt::format("{} bytes of state after {} tokens",
                                                           *match.state_bytes, solver.at())
                                             : fmt::format("{} parameters", *match.parameters);
  LS_CHECK(value > 0, kConfig, "match: no {} of the model '{}' can be had: {}", match.by, model,
           solver.fault());
  LS_CHECK(solver.off(value) <= kTolerance, kConfig,
           "match: the model '{}' cannot have {}: the nearest is {:.0f} with {}: {}, {:.1f} % off, "
           "at most 5 % are allowed; ask for another size, or solve for another field",
           model, what, *solver.size(value), fmt::join(paths, ", "), value,
           100 * solver.off(value));
  config = solver.with(value);
}

}  // namespace ls::experiments
