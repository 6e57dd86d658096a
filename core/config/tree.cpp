// ConfigTree: files, bases (`extend`), overrides.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "core/config/node.h"
#include "core/config/yaml.h"

namespace ls {
namespace {

namespace fs = std::filesystem;
using Kind = ConfigNode::Kind;
constexpr std::size_t kMaxFileBytes = 16u << 20;
constexpr int kMaxFiles = 1000;

// `blame` begins the message: the place of an `extend`, or nothing.
std::string read_text(const std::string& path, const std::string& blame) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                       &std::fclose);
  LS_CHECK(file != nullptr, kIo, "{}cannot open config '{}': {}", blame, path,
           std::strerror(errno));
  std::string text;
  char buffer[1 << 14];
  while (const std::size_t n = std::fread(buffer, 1, sizeof buffer, file.get())) {
    text.append(buffer, n);
    LS_CHECK(text.size() <= kMaxFileBytes, kIo, "{}config '{}' is larger than {} MiB", blame, path,
             kMaxFileBytes >> 20);
  }
  LS_CHECK(!std::ferror(file.get()), kIo, "{}cannot read config '{}': {}", blame, path,
           std::strerror(errno));
  return text;
}

class Loader {
 public:
  ConfigNode file(const std::string& path, const std::string& blame) {
    std::error_code ignored;
    const std::string real = fs::weakly_canonical(path, ignored).string();
    LS_CHECK(std::find(open_.begin(), open_.end(), real) == open_.end(), kConfig,
             "{}files extend each other in a circle: {} -> {}", blame, joined(open_, " -> "), path);
    LS_CHECK(++loaded_ <= kMaxFiles, kConfig, "{}too many files are extended", blame);
    const std::string text = read_text(path, blame);
    open_.push_back(real);
    ConfigNode root = document(text, path, fs::path(path).parent_path());
    open_.pop_back();
    return root;
  }

  ConfigNode document(std::string_view text, const std::string& name, const fs::path& directory) {
    ConfigNode root = parse_yaml(text, std::make_shared<const std::string>(name));
    LS_CHECK(root.kind != Kind::kNull, kConfig,
             "{}: the config is empty; a map (key: value) is expected", root.place.text());
    LS_CHECK(root.kind == Kind::kMap, kConfig, "{}: a config is a map (key: value), this is {}",
             root.place.text(), root.describe());
    load_bases(root, directory);
    return root;
  }

 private:
  void load_bases(ConfigNode& node, const fs::path& directory) {
    for (ConfigNode& item : node.items) {
      load_bases(item, directory);
    }
    const ConfigNode* found = node.find("extend");
    if (found == nullptr) {
      return;
    }
    const ConfigNode value = *found;
    node.keys.erase(node.keys.begin() + (found - node.items.data()));
    node.items.erase(node.items.begin() + (found - node.items.data()));
    LS_CHECK(value.kind == Kind::kScalar || value.kind == Kind::kList, kConfig,
             "{}: extend: a file or a list of files is expected, got {}", value.place.text(),
             value.describe());
    for (const ConfigNode& path :
         value.kind == Kind::kList ? value.items : std::vector<ConfigNode>{value}) {
      LS_CHECK(path.kind == Kind::kScalar && !path.text.empty(), kConfig,
               "{}: extend: the path of a file is expected, got {}", path.place.text(),
               path.describe());
      node.bases.push_back(
          file((directory / path.text).string(), path.place.text() + ": extend: "));
    }
  }

  std::vector<std::string> open_;
  int loaded_ = 0;
};

// In messages an override is named as a whole.
void set_places(ConfigNode& node, const Place& place) {
  node.place = place;
  for (ConfigNode::Key& key : node.keys) {
    key.place = place;
  }
  for (ConfigNode& item : node.items) {
    set_places(item, place);
  }
}

}  // namespace

ConfigNode load_config_file(const std::string& path, const std::string& blame) {
  return Loader().file(path, blame);
}

ConfigNode load_config_text(std::string_view text, const std::string& name,
                            const fs::path& directory) {
  return Loader().document(text, name, directory);
}

std::vector<std::string> parse_path(std::string_view path, const Place& place) {
  std::vector<std::string> keys;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    const std::string& key = keys.emplace_back(path.substr(begin, end - begin));
    LS_CHECK(!key.empty() && key.find_first_of(" \t\n") == std::string::npos, kConfig,
             "{}: '{}' is not a path of keys joined by dots", place.text(), path);
    LS_CHECK(key != "extend", kConfig, "{}: extend works in files only", place.text());
    begin = end + 1;
  }
  return keys;
}

ConfigOverride make_override(std::string_view path, ConfigNode value, const Place& place) {
  ConfigOverride o{.path = parse_path(path, place), .layer = std::move(value)};
  for (auto key = o.path.rbegin(); key != o.path.rend(); ++key) {
    ConfigNode step{.kind = Kind::kMap, .step = true, .place = place};
    step.keys.push_back({*key, place});
    step.items.push_back(std::move(o.layer));
    o.layer = std::move(step);
  }
  return o;
}

ConfigOverride parse_override(const std::string& text) {
  const Place place{std::make_shared<const std::string>("--set '" + text + "'")};
  const std::size_t equal = text.find('=');
  LS_CHECK(equal != std::string::npos && equal > 0, kConfig,
           "{}: an override is written path=value, as in model.heads=2", place.text());
  parse_path(std::string_view(text).substr(0, equal), place);
  // Blanks in place of the path keep the columns of the whole text in messages.
  ConfigNode value = parse_yaml(std::string(equal + 1, ' ') + text.substr(equal + 1), place.source);
  ConfigOverride o =
      make_override(std::string_view(text).substr(0, equal), std::move(value), place);
  set_places(o.layer, place);
  return o;
}

void append_overrides(std::vector<ConfigOverride> overrides, std::vector<ConfigNode>& layers) {
  std::ranges::stable_sort(overrides, {}, &ConfigOverride::depth);
  for (ConfigOverride& o : overrides) {
    layers.push_back(std::move(o.layer));
  }
}

ConfigTree::ConfigTree(ConfigNode file, const std::vector<std::string>& overrides) {
  layers_.push_back(std::move(file));
  std::vector<ConfigOverride> parsed;
  for (const std::string& text : overrides) {
    parsed.push_back(parse_override(text));
  }
  append_overrides(std::move(parsed), layers_);
}
ConfigTree::ConfigTree(std::vector<ConfigNode> layers) : layers_(std::move(layers)) {}
ConfigTree::ConfigTree(ConfigTree&&) noexcept = default;
ConfigTree::~ConfigTree() = default;

ConfigTree ConfigTree::from_file(const std::string& path,
                                 const std::vector<std::string>& overrides) {
  return {load_config_file(path, ""), overrides};
}

ConfigTree ConfigTree::from_text(std::string_view text, const std::string& name,
                                 const std::vector<std::string>& overrides) {
  return {load_config_text(text, name, ""), overrides};
}

}  // namespace ls
