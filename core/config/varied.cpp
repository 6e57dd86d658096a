#include "core/config/varied.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <set>

#include "core/base/rng.h"
#include "core/config/node.h"

namespace ls {
namespace {

using Kind = ConfigNode::Kind;
constexpr Index kMostValues = 10000;  // of an axis

std::string one_line(const ConfigNode& node) {
  if (node.kind == Kind::kScalar) {
    return node.text;
  }
  if (node.kind == Kind::kNull) {
    return "null";
  }
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    parts.push_back((node.kind == Kind::kMap ? node.keys[i].text + ": " : "") +
                    one_line(node.items[i]));
  }
  return node.kind == Kind::kMap ? "{" + joined(parts) + "}" : "[" + joined(parts) + "]";
}

/// What {log_space: [low, high], count: N} and {log_uniform: ..., seed: S} say.
struct LogValues {
  std::vector<double> log_space, log_uniform;
  Index count = 0, seed = 0;
  template <class F>
  void fields(F& f) {
    f("log_space", log_space, {.help = "lowest and highest value, spaced evenly", .above = 0});
    f("log_uniform", log_uniform, {.help = "the range of drawn values", .above = 0});
    f("count", count,
      {.help = "number of values",
       .min = 1,
       .max = static_cast<double>(kMostValues),
       .required = true});
    f("seed", seed, {.help = "of drawn values", .min = 0});
    const std::vector<double>& ends = log_space.empty() ? log_uniform : log_space;
    f.check(log_space.empty() != log_uniform.empty() && ends.size() == 2 && ends[0] < ends[1],
            "count", "needs log_space: [LOW, HIGH] or log_uniform: [LOW, HIGH], LOW below HIGH");
  }

  std::vector<std::string> texts() const {
    const bool drawn = log_space.empty();
    const std::vector<double>& ends = drawn ? log_uniform : log_space;
    const double low = std::log(ends[0]), size = std::log(ends[1]) - low;
    std::vector<std::string> out;
    for (Index i = 0; i < count; ++i) {
      const double share = drawn ? Rng(static_cast<std::uint64_t>(seed), "log_uniform",
                                       static_cast<std::uint64_t>(i))
                                       .uniform()
                           : count == 1 ? 0.5
                                        : static_cast<double>(i) / static_cast<double>(count - 1);
      out.push_back(fmt::format("{:.3g}", std::exp(low + share * size)));
    }
    return out;
  }
};

/// Takes a key out of a map.
std::optional<ConfigNode> taken(ConfigNode& map, std::string_view key) {
  for (std::size_t i = 0; i < map.keys.size(); ++i) {
    if (map.keys[i].text == key) {
      ConfigNode value = std::move(map.items[i]);
      map.keys.erase(map.keys.begin() + static_cast<std::ptrdiff_t>(i));
      map.items.erase(map.items.begin() + static_cast<std::ptrdiff_t>(i));
      return value;
    }
  }
  for (auto base = map.bases.rbegin(); base != map.bases.rend(); ++base) {
    if (std::optional<ConfigNode> value = taken(*base, key)) {
      return value;
    }
  }
  return std::nullopt;
}

}  // namespace

struct VariedConfig::Parts {
  std::vector<ConfigNode> own, base;
  std::vector<ConfigAxis> axes;
  std::map<std::string, Index> axis_of_key;
  std::vector<std::vector<std::vector<ConfigNode>>> values;
  std::map<std::string, std::string> seen;  // path -> where it is varied

  void read(ConfigNode file, const std::filesystem::path& directory,
            const std::vector<std::string>& overrides, const Keys& keys) {
    take_base(file, directory);
    std::optional<ConfigNode> varied = taken(file, "axes");
    std::map<std::string, ConfigNode> keyed;
    for (const auto& [key, path] : keys) {
      if (std::optional<ConfigNode> values = taken(file, key)) {
        keyed[key] = std::move(*values);
      }
    }
    own.push_back(std::move(file));
    take_overrides(overrides, keys, keyed);
    if (varied) {
      add_axes(*varied);
    }
    for (const auto& [key, path] : keys) {
      if (const auto it = keyed.find(key); it != keyed.end()) {
        axis_of_key[key] = std::ssize(axes);
        add_axis({{path, &it->second}}, it->second.place);
      }
    }
  }

 private:
  void take_base(ConfigNode& file, const std::filesystem::path& directory) {
    std::optional<ConfigNode> node = taken(file, "base");
    LS_CHECK(
        node && (node->kind == Kind::kMap || (node->kind == Kind::kScalar && !node->text.empty())),
        kConfig,
        "{}: base: the config that is varied is expected, the path of a file or a map, got {}",
        node ? node->place.text() : file.place.text(), node ? node->describe() : "nothing");
    if (node->kind == Kind::kScalar) {
      // Beside the file that names it, which may be one that the sweep extends.
      const std::filesystem::path named =
          node->place.source ? std::filesystem::path(*node->place.source).parent_path() : directory;
      node = load_config_file((named / node->text).string(), node->place.text() + ": base: ");
    }
    base.push_back(std::move(*node));
  }

  void take_overrides(const std::vector<std::string>& overrides, const Keys& keys,
                      std::map<std::string, ConfigNode>& keyed) {
    std::vector<ConfigOverride> of_base, of_own;
    for (const std::string& text : overrides) {
      ConfigOverride o = parse_override(text);
      const std::string first = o.path.front();
      LS_CHECK(first != "axes" && (first != "base" || o.path.size() > 1), kConfig,
               "{}: axes and base are changed in the file; base.FIELD=VALUE sets a field of the "
               "base",
               o.layer.place.text());
      ConfigNode inner = std::move(o.layer.items[0]);
      if (first == "base") {
        o.path.erase(o.path.begin());
        of_base.push_back({std::move(o.path), std::move(inner)});
      } else if (keys.contains(first) && o.path.size() == 1) {
        keyed[first] = std::move(inner);
      } else {
        o.layer.items[0] = std::move(inner);
        of_own.push_back(std::move(o));
      }
    }
    append_overrides(std::move(of_base), base);
    append_overrides(std::move(of_own), own);
  }

  void add_axes(const ConfigNode& map) {
    LS_CHECK(map.kind == Kind::kMap || map.kind == Kind::kNull, kConfig,
             "{}: axes: a map of paths with the values of each is expected, got {}",
             map.place.text(), map.describe());
    for (std::size_t i = 0; i < map.keys.size(); ++i) {
      if (map.keys[i].text != "zip") {
        add_axis({{map.keys[i].text, &map.items[i]}}, map.keys[i].place);
        continue;
      }
      const ConfigNode& zip = map.items[i];
      for (const ConfigNode& one :
           zip.kind == Kind::kList ? zip.items : std::vector<ConfigNode>{zip}) {
        LS_CHECK(one.kind == Kind::kMap && !one.keys.empty(), kConfig,
                 "{}: axes.zip: a map of paths with lists of one length is expected, or a list of "
                 "such maps, got {}",
                 one.place.text(), one.describe());
        std::vector<std::pair<std::string, const ConfigNode*>> paths;
        for (std::size_t k = 0; k < one.keys.size(); ++k) {
          paths.emplace_back(one.keys[k].text, &one.items[k]);
        }
        add_axis(paths, one.place);
      }
    }
  }

  /// The values of one path, each a node of its own.
  static std::vector<ConfigNode> values_of(const std::string& path, const ConfigNode& node) {
    const std::string begin = node.place.text() + ": " + path;
    if (node.kind == Kind::kMap) {
      LogValues made;
      try {
        read_config(ConfigTree(std::vector<ConfigNode>{node}), made);
      } catch (const Error& e) {
        LS_FAIL(kConfig,
                "{}\nvalues of {} are a list, {{log_space: [LOW, HIGH], count: N}} or "
                "{{log_uniform: [LOW, HIGH], count: N, seed: S}}",
                e.message(), path);
      }
      std::vector<ConfigNode> out;
      for (std::string& text : made.texts()) {
        out.push_back({.kind = Kind::kScalar, .text = std::move(text), .place = node.place});
      }
      return out;
    }
    LS_CHECK(node.kind == Kind::kList, kConfig, "{}: a list of values is expected, got {}{}", begin,
             node.describe(),
             node.kind == Kind::kScalar ? fmt::format("; write [{}]", node.text) : "");
    LS_CHECK(!node.items.empty(), kConfig, "{}: the list is empty; give at least one value", begin);
    LS_CHECK(std::ssize(node.items) <= kMostValues, kConfig, "{}: more than {} values", begin,
             kMostValues);
    return node.items;
  }

  void add_axis(const std::vector<std::pair<std::string, const ConfigNode*>>& paths,
                const Place& place) {
    ConfigAxis axis{.where = place.text()};
    std::vector<std::vector<ConfigNode>> of_paths;
    for (const auto& [path, node] : paths) {
      parse_path(path, place);
      const auto [at, is_new] = seen.emplace(path, place.text());
      LS_CHECK(is_new, kConfig, "{}: axes: {} is varied twice, at {} already", place.text(), path,
               at->second);
      axis.paths.push_back(path);
      of_paths.push_back(values_of(path, *node));
      LS_CHECK(of_paths.back().size() == of_paths.front().size(), kConfig,
               "{}: axes.zip: {} has {} values, {} has {}; values that go together are as many",
               node->place.text(), axis.paths.front(), of_paths.front().size(), path,
               of_paths.back().size());
    }
    std::vector<std::vector<ConfigNode>>& chosen = values.emplace_back();
    std::set<std::vector<std::string>> texts;
    for (std::size_t v = 0; v < of_paths.front().size(); ++v) {
      std::vector<std::string> text;
      std::vector<ConfigNode> nodes;
      for (std::vector<ConfigNode>& path : of_paths) {
        text.push_back(one_line(path[v]));
        nodes.push_back(std::move(path[v]));
      }
      LS_CHECK(texts.insert(text).second, kConfig, "{}: axes: {}: {} is listed twice", place.text(),
               joined(axis.paths), joined(text));
      axis.texts.push_back(std::move(text));
      chosen.push_back(std::move(nodes));
    }
    axes.push_back(std::move(axis));
  }
};

VariedConfig::VariedConfig(Parts parts)
    : own_(std::move(parts.own)),
      base_(std::move(parts.base)),
      axes_(std::move(parts.axes)),
      axis_of_key_(std::move(parts.axis_of_key)),
      values_(std::move(parts.values)) {}
VariedConfig::VariedConfig(VariedConfig&&) noexcept = default;
VariedConfig::~VariedConfig() = default;

VariedConfig VariedConfig::from_file(const std::string& path,
                                     const std::vector<std::string>& overrides, const Keys& keys) {
  Parts parts;
  parts.read(load_config_file(path, ""), std::filesystem::path(path).parent_path(), overrides,
             keys);
  return VariedConfig(std::move(parts));
}

VariedConfig VariedConfig::from_text(std::string_view text, const std::string& name,
                                     const std::vector<std::string>& overrides, const Keys& keys) {
  Parts parts;
  parts.read(load_config_text(text, name, ""), "", overrides, keys);
  return VariedConfig(std::move(parts));
}

Index VariedConfig::axis_of(const std::string& key) const {
  const auto it = axis_of_key_.find(key);
  return it == axis_of_key_.end() ? -1 : it->second;
}

ConfigTree VariedConfig::tree(std::span<const Index> chosen, std::string_view above) const {
  std::vector<ConfigNode> layers = base_;
  std::vector<ConfigOverride> overrides;
  for (std::size_t a = 0; a < chosen.size(); ++a) {
    for (std::size_t p = 0; chosen[a] >= 0 && p < axes_[a].paths.size(); ++p) {
      const ConfigNode& value = values_[a][static_cast<std::size_t>(chosen[a])][p];
      overrides.push_back(make_override(axes_[a].paths[p], value, value.place));
    }
  }
  append_overrides(std::move(overrides), layers);
  if (!above.empty()) {
    layers.push_back(load_config_text(above, layers.front().place.text(), ""));
  }
  return ConfigTree(std::move(layers));
}

}  // namespace ls
