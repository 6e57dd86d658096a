#pragma once
// A config some of whose fields take several values: the file of a sweep besides its own fields.
//
//   base: ../runs/mqar.yaml          # or a map, which may `extend`
//   axes:
//     models.*.width: [32, 64]       # values as in the base; * stands for all elements of a list
//     models.0.layers: [[attention], [{name: gla, heads: 2}]]
//     clip: {log_space: [0.1, 10], count: 3}                               # evenly, ends included
//     optimizer.weight_decay: {log_uniform: [1e-3, 0.1], count: 4, seed: 1}  # drawn
//     zip: {task.length: [64, 128], batch: [512, 256]}  # go together; or a list of such maps
//   rates: [1e-3, 3e-3]              # an axis with a key of its own, where there are such
//
// Drawn numbers are rounded to three digits; number i depends on seed and i alone. An override of
// the base is "base.steps=10", one of a key with an axis "rates=[1e-3]".
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/config/yaml.h"

namespace ls {

struct ConfigAxis {
  std::vector<std::string> paths;  ///< several where values go together
  /// Of each value, as YAML in one line, one text for each path.
  std::vector<std::vector<std::string>> texts;
  std::string where;  ///< "file:line:column"
};

class VariedConfig {
 public:
  /// Keys with an axis, and the path of each in the base: {"rates", "lr"}.
  using Keys = std::map<std::string, std::string>;
  /// @throws Error(Io) if a file cannot be read; Error(Config) on bad YAML, no base, an axis
  ///   with no value, a path or value that is given twice, lists of a zip that differ in length
  static VariedConfig from_file(const std::string& path, const std::vector<std::string>& overrides,
                                const Keys& keys = {});
  static VariedConfig from_text(std::string_view text, const std::string& name,
                                const std::vector<std::string>& overrides, const Keys& keys = {});
  VariedConfig(VariedConfig&&) noexcept;
  ~VariedConfig();

  /// The file without base and axes.
  const ConfigTree& own() const { return own_; }
  /// In the order of the file, those with keys last.
  const std::vector<ConfigAxis>& axes() const { return axes_; }
  /// Number of the axis of a key, -1 where the file has none.
  Index axis_of(const std::string& key) const;
  /// The base with value `chosen[i]` of axis i; -1: as the base has it. `above`: YAML, read last.
  ConfigTree tree(std::span<const Index> chosen, std::string_view above = {}) const;
  ConfigTree base() const { return tree({}); }

 private:
  struct Parts;
  explicit VariedConfig(Parts parts);
  ConfigTree own_;
  std::vector<ConfigNode> base_;  // layers
  std::vector<ConfigAxis> axes_;
  std::map<std::string, Index> axis_of_key_;
  std::vector<std::vector<std::vector<ConfigNode>>> values_;  // by axis, value and path
};

}  // namespace ls
