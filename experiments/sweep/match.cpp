#include "experiments/sweep/match.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "experiments/evaluate.h"
#include "experiments/model_io.h"

namespace ls::experiments {
namespace {

constexpr double kTolerance = 0.05;
constexpr Index kLargest = 1 << 16;                // of the field
constexpr Index kMostParameters = Index{1} << 28;  // of a model that is tried
constexpr Index kAround = 64;  // values that are tried on each side of where the size is met

/// Has a component a number of this name?
class HasField final : public FieldVisitor {
 public:
  explicit HasField(std::string name) : name_(std::move(name)) {}
  bool found = false;
  bool number = false;  ///< it may be a fraction

 protected:
  void field(std::string_view name, const Value& value, const FieldOptions&) override {
    const auto* items = value.as<ItemsValue>();
    const bool optional = items != nullptr && items->optional();
    const bool mine = name == name_;
    number |= mine && value.as<double>() != nullptr;
    found |= mine && (number || value.as<Index>() != nullptr || optional);
  }

 private:
  std::string name_;
};

struct Target {
  std::string path;  ///< in the model
  bool number = false;
};

HasField look_for(SectionValue& section, const std::string& name) {
  HasField f(name);
  section.visit(f);
  return f;
}

/// The fields of the model that a name stands for.
std::vector<Target> targets_of(RunModel model, const std::string& name) {
  std::vector<Target> out;
  detail::SectionOf<RunModel> section(model);
  if (const HasField f = look_for(section, name); f.found) {
    return {{name, f.number}};
  }
  for (std::size_t l = 0; l < model.layers.size(); ++l) {
    const std::string begin = fmt::format("layers.{}.", l);
    const bool path = name.starts_with(begin);
    const HasField f = look_for(model.layers[l].config(), path ? name.substr(begin.size()) : name);
    if (f.found) {
      out.push_back({path ? name : begin + name, f.number});
    }
  }
  return out;
}

class Solver {
 public:
  Solver(const MatchConfig& match, const RunConfig& config, const data::Task& task,
         std::vector<Target> targets)
      : match_(match),
        width_(static_cast<double>(config.models.front().width)),
        text_(dump_yaml(config)),
        task_(task),
        targets_(std::move(targets)),
        at_(match.at > 0 ? match.at : longest_training_example(task)) {}

  double wanted() const {
    return static_cast<double>(match_.state_bytes ? *match_.state_bytes : *match_.parameters);
  }

  RunConfig with(Index value) const {
    std::vector<std::string> overrides;
    for (const Target& target : targets_) {
      overrides.push_back("models.0." + text_of(target, value));
    }
    return read_config_text<RunConfig>(text_, "match", overrides);
  }

  /// A fraction is one of the width: expand_k and the like.
  std::string text_of(const Target& target, Index value) const {
    return target.number ? fmt::format("{}={}", target.path, static_cast<double>(value) / width_)
                         : fmt::format("{}={}", target.path, value);
  }
  std::string text_of(Index value) const {
    std::vector<std::string> texts;
    for (const Target& target : targets_) {
      texts.push_back(text_of(target, value));
    }
    return fmt::format("{}", fmt::join(texts, ", "));
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
      const auto count = [&](bool learned_states) {
        return count_parameters(config.models.front(), model_interface(task_), learned_states);
      };
      Index parameters = count(false);
      LS_CHECK(parameters <= kMostParameters, kConfig, "{} parameters with {}", parameters, value);
      if (match_.parameters && config.state.learned > 0) {
        parameters = count(true);
      }
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
  double width_;
  std::string text_;
  const data::Task& task_;
  std::vector<Target> targets_;
  Index at_;
  std::map<Index, std::optional<double>> sizes_;
  std::string fault_;  // of the last value that the model cannot have
};

}  // namespace

void match_model(const MatchConfig& match, RunConfig& config, const data::Task& task,
                 const std::string& model) {
  std::vector<Target> targets;
  std::string by;
  for (const char c : match.by + ",") {
    if (c == ',' && !by.empty()) {
      targets = targets.empty() ? targets_of(config.models.front(), by) : targets;
      by.clear();
    } else if (c != ',' && c != ' ') {
      by += c;
    }
  }
  LS_CHECK(!targets.empty(), kConfig,
           "match.by: neither the model '{}' nor its mixers have a number '{}'; longscan "
           "describe MIXER lists fields, and several names stand with commas between",
           model, match.by);
  Solver solver(match, config, task, targets);
  const Index value = solver.solve();
  const std::string what = match.state_bytes ? fmt::format("{} bytes of state after {} tokens",
                                                           *match.state_bytes, solver.at())
                                             : fmt::format("{} parameters", *match.parameters);
  LS_CHECK(value > 0, kConfig, "match: no {} of the model '{}' can be had: {}", match.by, model,
           solver.fault());
  LS_CHECK(solver.off(value) <= kTolerance, kConfig,
           "match: the model '{}' cannot have {}: the nearest is {:.0f} with {}, {:.1f} % off, "
           "at most 5 % are allowed; ask for another size, or solve for another field",
           model, what, *solver.size(value), solver.text_of(value), 100 * solver.off(value));
  config = solver.with(value);
}

}  // namespace ls::experiments
