#pragma once
// What `longscan sweep` reads besides base, axes and rates, which are those of a VariedConfig.
#include <optional>
#include <string>
#include <vector>

#include "core/config/limits.h"
#include "core/config/varied.h"
#include "core/config/yaml.h"
#include "core/io/files.h"

namespace ls::experiments {

/// Which checkpoint a finished run leaves.
enum class Keep : std::uint8_t { kNone, kLast, kBest };

}  // namespace ls::experiments

template <>
struct ls::EnumNames<ls::experiments::Keep> {
  static constexpr std::string_view kKind = "kept checkpoint";
  static constexpr std::array<std::string_view, 3> kNames = {"none", "last", "best"};
};

namespace ls::experiments {

/// Models made equal in size.
struct MatchConfig {
  std::optional<Index> state_bytes, parameters;
  Index at = 0;
  std::string by;

  template <class F>
  void fields(F& f) {
    f("state_bytes", state_bytes, {.help = "bytes of state that every model is given", .min = 1});
    f("parameters", parameters, {.help = "parameters that every model is given", .min = 1});
    f.check(state_bytes.has_value() != parameters.has_value(), "state_bytes",
            "a match is to state_bytes or to parameters, one of them");
    f("at", at,
      {.help = "tokens after which the state is measured; 0: those of a training example",
       .min = 0});
    f("by", by,
      {.help =
           "field that is solved for: width or another field of the model, a field of its "
           "mixers, set in each layer that has it, or layers.1.head_dim; a fraction is one of the "
           "width; of several, with commas between, the first that a model has",
       .required = true,
       .min_size = 1});
  }
};

struct SweepConfig {
  std::string name;
  std::string output = "runs";
  std::vector<Index> seeds = {0};
  std::vector<Index> choice_seeds;
  Keep keep = Keep::kNone;
  std::optional<MatchConfig> match;
  /// Read by VariedConfig; here for the list of fields.
  std::string base, axes, rates;

  template <class F>
  void fields(F& f) {
    f("name", name,
      {.help = "name of the sweep and of its folder", .required = true, .min_size = 1});
    f.check(folder_name_fault(name).empty() && name.find(' ') == std::string::npos, "name",
            "names a folder: no spaces, slashes or control characters, no dot in front, at most "
            "200 bytes");
    f("output", output, {.help = "folder that holds the folders of sweeps", .min_size = 1});
    f("base", base, {.help = "the config that is varied, a file beside this one or a map"});
    f("axes", axes,
      {.help =
           "map of paths in the base to lists of values, {log_space: [LOW, HIGH], count: N} or "
           "{log_uniform: [LOW, HIGH], count: N, seed: S}; zip holds maps of such lists that go "
           "together"});
    f("rates", rates,
      {.help = "learning rates, as an axis has values; of several, each cell is given the best by "
               "validation after the last update"});
    f("seeds", seeds, {.help = "seeds to train with", .min = 0, .max = kMaxSeed, .min_size = 1});
    f("choice_seeds", choice_seeds,
      {.help = "seeds that rates are chosen on, and that are not reported; by default the first "
               "where there are several rates",
       .min = 0,
       .max = kMaxSeed});
    f("keep", keep, {.help = "checkpoint that a finished run leaves; best is checkpoint.best's"});
    f("match", match, {.help = "solves a field of every model for an equal size"});
  }
};

}  // namespace ls::experiments
