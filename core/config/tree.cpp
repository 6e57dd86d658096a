// ConfigTree: files, bases (`extend`), merging, overrides.
#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/base/error.h"
#include "core/config/node.h"
#include "core/config/yaml.h"

namespace ls {
namespace {

using Kind = ConfigNode::Kind;
constexpr std::size_t kMaxFileBytes = 16u << 20;
constexpr int kMaxExtends = 64;

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

std::string directory_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, std::max<std::size_t>(slash, 1));
}

std::string join(const std::string& directory, const std::string& path) {
  return path.starts_with('/') || directory == "." ? path : directory + "/" + path;
}

std::string canonical(const std::string& path) {
  std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), &::free);
  return real ? real.get() : path;
}

void mark_stale(ConfigNode& node, std::uint64_t bit) {
  for (ConfigNode::Key& key : node.keys) {
    key.stale |= key.overridden ? 0 : bit;
  }
  for (ConfigNode& item : node.items) {
    mark_stale(item, bit);
  }
}

std::uint64_t depth_bit(int depth) {
  return depth < 64 ? std::uint64_t{1} << depth : 0;
}

// Called before `name` of `map` becomes `name`: what was written for another name goes stale.
void rename(ConfigNode& map, const ConfigNode& name, int depth) {
  const int old = map.find("name");
  if (old >= 0 && name.kind == Kind::kScalar &&
      map.items[static_cast<std::size_t>(old)].text != name.text) {
    mark_stale(map, depth_bit(depth));
  }
}

// `mixer: gla` as {name: gla}.
void expand_short_form(ConfigNode& node) {
  ConfigNode map;
  map.kind = Kind::kMap;
  map.place = node.place;
  map.keys.push_back({"name", node.place, 0, false, true});
  map.items.push_back(std::move(node));
  node = std::move(map);
}

void merge(ConfigNode& lower, ConfigNode upper, int depth) {
  if (upper.kind == Kind::kMap && lower.kind == Kind::kScalar && upper.find("name") < 0) {
    expand_short_form(lower);
  }
  if (upper.kind != Kind::kMap || lower.kind != Kind::kMap) {
    lower = std::move(upper);
    return;
  }
  if (const int i = upper.find("name"); i >= 0) {
    rename(lower, upper.items[static_cast<std::size_t>(i)], depth);
  }
  lower.place = upper.place;
  for (std::size_t i = 0; i < upper.keys.size(); ++i) {
    const int at = lower.find(upper.keys[i].text);
    if (at < 0) {
      lower.keys.push_back(std::move(upper.keys[i]));
      lower.items.push_back(std::move(upper.items[i]));
    } else {
      lower.keys[static_cast<std::size_t>(at)] = std::move(upper.keys[i]);
      merge(lower.items[static_cast<std::size_t>(at)], std::move(upper.items[i]), depth + 1);
    }
  }
}

class Loader {
 public:
  explicit Loader(std::vector<std::string>& files) : files_(files) {}

  ConfigNode file(const std::string& path, int depth, const std::string& blame) {
    const std::string real = canonical(path);
    if (std::find(open_.begin(), open_.end(), real) != open_.end()) {
      std::string chain;
      for (const std::string& f : names_) {
        chain += f + " -> ";
      }
      LS_FAIL(kConfig, "{}files extend each other in a circle: {}{}", blame, chain, path);
    }
    LS_CHECK(++loaded_ <= 1000 && open_.size() < kMaxExtends, kConfig,
             "{}too many files are extended", blame);
    const std::string text = read_text(path, blame);
    if (std::find(files_.begin(), files_.end(), path) == files_.end()) {
      files_.push_back(path);
    }
    open_.push_back(real);
    names_.push_back(path);
    ConfigNode root = document(text, path, directory_of(path), depth);
    open_.pop_back();
    names_.pop_back();
    return root;
  }

  ConfigNode document(std::string_view text, const std::string& name, const std::string& directory,
                      int depth) {
    ConfigNode root = parse_yaml(text, std::make_shared<const std::string>(name));
    LS_CHECK(root.kind != Kind::kNull, kConfig,
             "{}: the config is empty; a map (key: value) is expected", root.place.text());
    LS_CHECK(root.kind == Kind::kMap, kConfig, "{}: a config is a map (key: value), this is {}",
             root.place.text(), root.describe());
    resolve(root, directory, depth);
    return root;
  }

 private:
  void resolve(ConfigNode& node, const std::string& directory, int depth) {
    for (ConfigNode& item : node.items) {
      resolve(item, directory, depth + 1);
    }
    const int at = node.find("extend");
    if (node.kind != Kind::kMap || at < 0) {
      return;
    }
    const ConfigNode value = std::move(node.items[static_cast<std::size_t>(at)]);
    node.keys.erase(node.keys.begin() + at);
    node.items.erase(node.items.begin() + at);
    const bool one = value.kind == Kind::kScalar;
    LS_CHECK(one || (value.kind == Kind::kList && value.repeat == 1), kConfig,
             "{}: extend: a file or a list of files is expected, got {}", value.place.text(),
             value.describe());
    ConfigNode base;
    base.kind = Kind::kMap;
    for (std::size_t i = 0; i < (one ? 1 : value.items.size()); ++i) {
      const ConfigNode& path = one ? value : value.items[i];
      LS_CHECK(path.kind == Kind::kScalar && !path.text.empty(), kConfig,
               "{}: extend: the path of a file is expected, got {}", path.place.text(),
               path.describe());
      merge(base, file(join(directory, path.text), depth, path.place.text() + ": extend: "), depth);
    }
    merge(base, std::move(node), depth);
    node = std::move(base);
  }

  std::vector<std::string>& files_;
  std::vector<std::string> open_, names_;
  int loaded_ = 0;
};

struct Override {
  std::vector<std::string> path;
  ConfigNode value;
  Place place;
};

std::vector<std::string> split_path(std::string_view path) {
  std::vector<std::string> out;
  for (std::size_t begin = 0;;) {
    const std::size_t dot = path.find('.', begin);
    out.emplace_back(path.substr(begin, dot - begin));
    if (dot == std::string_view::npos) {
      return out;
    }
    begin = dot + 1;
  }
}

Override parse_override(const std::string& text) {
  Override o;
  o.place.source = std::make_shared<const std::string>("--set '" + text + "'");
  const std::size_t equal = text.find('=');
  LS_CHECK(equal != std::string::npos && equal > 0, kConfig,
           "{}: an override is written path=value, as in model.heads=2", o.place.text());
  o.path = split_path(std::string_view(text).substr(0, equal));
  for (const std::string& key : o.path) {
    LS_CHECK(!key.empty() && key.find_first_of(" \t\n") == std::string::npos, kConfig,
             "{}: '{}' is not a path of keys joined by dots", o.place.text(),
             text.substr(0, equal));
    LS_CHECK(key != "extend", kConfig, "{}: extend works in files only", o.place.text());
  }
  // Blanks in place of the path keep the columns of the whole text in messages.
  o.value = parse_yaml(std::string(equal + 1, ' ') + text.substr(equal + 1), o.place.source);
  set_places(o.value, o.place);
  return o;
}

bool is_number(const std::string& s) {
  return !s.empty() && s.find_first_not_of("0123456789") == std::string::npos;
}

void apply(ConfigNode& node, const Override& o, std::size_t i, bool fresh) {
  const int depth = static_cast<int>(i);
  if (i == o.path.size()) {
    merge(node, o.value, depth);
    return;
  }
  const std::string& key = o.path[i];
  std::string parent;
  for (std::size_t k = 0; k < i; ++k) {
    parent += (k ? "." : "") + o.path[k];
  }
  if (node.kind == Kind::kList) {
    if (node.repeat > 1) {
      const std::vector<ConfigNode> once = node.items;
      for (; node.repeat > 1; --node.repeat) {
        node.items.insert(node.items.end(), once.begin(), once.end());
      }
    }
    const std::size_t size = node.items.size();
    LS_CHECK(is_number(key) && key.size() < 10 && std::stoul(key) < size, kConfig,
             "{}: '{}' is a list of {} elements ({}); '{}' is none of 0 to {}", o.place.text(),
             parent, size, node.place.text(), key, static_cast<Index>(size) - 1);
    return apply(node.items[std::stoul(key)], o, i + 1, false);
  }
  LS_CHECK(!fresh || !is_number(key), kConfig,
           "{}: '{}' is not written in the file, so its element {} cannot be set", o.place.text(),
           parent, key);
  if (node.kind == Kind::kScalar) {
    expand_short_form(node);
    node.place = o.place;
  } else if (node.kind == Kind::kNull) {
    node.kind = Kind::kMap;
    node.place = o.place;
  }
  const bool last = i + 1 == o.path.size();
  if (last && key == "name") {
    rename(node, o.value, depth);
  }
  int at = node.find(key);
  const bool created = at < 0;
  if (created) {
    at = static_cast<int>(node.keys.size());
    node.keys.push_back({key, o.place});
    node.items.emplace_back();
  }
  ConfigNode::Key& entry = node.keys[static_cast<std::size_t>(at)];
  entry.stale = 0;
  if (last) {
    entry = {key, o.place, 0, true};
  }
  apply(node.items[static_cast<std::size_t>(at)], o, i + 1, created);
}

const ConfigNode* lookup(const ConfigNode& root, std::string_view path, Place& nearest) {
  const ConfigNode* node = &root;
  nearest = root.place;
  for (const std::string& key : split_path(path)) {
    int at = -1;
    if (node->kind == Kind::kMap) {
      at = node->find(key);
    } else if (node->kind == Kind::kList && is_number(key) && key.size() < 10 &&
               !node->items.empty()) {
      const auto n = static_cast<Index>(node->items.size());
      const Index i = std::stoll(key);
      at = i < n * node->repeat ? static_cast<int>(i % n) : -1;
    }
    if (at < 0) {
      return nullptr;
    }
    nearest = node->items[static_cast<std::size_t>(at)].place;
    node = &node->items[static_cast<std::size_t>(at)];
  }
  return node;
}

}  // namespace

std::string Place::text() const {
  if (!source) {
    return "config";
  }
  return line == 0 ? *source : fmt::format("{}:{}:{}", *source, line, column);
}

int ConfigNode::find(std::string_view key) const {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (keys[i].text == key) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

std::string ConfigNode::describe() const {
  switch (kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a map";
    case Kind::kScalar:
      break;
  }
  const std::string shown = text.size() <= 60 ? text : text.substr(0, 57) + "...";
  return quoted ? fmt::format("the text \"{}\"", shown) : fmt::format("'{}'", shown);
}

void set_places(ConfigNode& node, const Place& place) {
  node.place = place;
  for (ConfigNode::Key& key : node.keys) {
    key.place = place;
    key.overridden = true;
  }
  for (ConfigNode& item : node.items) {
    set_places(item, place);
  }
}

ConfigTree::ConfigTree() : root_(std::make_unique<ConfigNode>()) {}
ConfigTree::ConfigTree(ConfigTree&&) noexcept = default;
ConfigTree& ConfigTree::operator=(ConfigTree&&) noexcept = default;
ConfigTree::~ConfigTree() = default;

ConfigTree ConfigTree::from_file(const std::string& path,
                                 const std::vector<std::string>& overrides) {
  ConfigTree tree;
  *tree.root_ = Loader(tree.files_).file(path, 0, "");
  tree.set(overrides);
  return tree;
}

ConfigTree ConfigTree::from_text(std::string_view text, const std::string& name,
                                 const std::string& directory,
                                 const std::vector<std::string>& overrides) {
  ConfigTree tree;
  *tree.root_ = Loader(tree.files_).document(text, name, directory, 0);
  tree.set(overrides);
  return tree;
}

void ConfigTree::set(const std::vector<std::string>& overrides) {
  std::vector<Override> parsed;
  for (const std::string& text : overrides) {
    parsed.push_back(parse_override(text));
  }
  // A component must be chosen before its settings are set.
  std::stable_sort(parsed.begin(), parsed.end(), [](const Override& a, const Override& b) {
    return a.path.size() < b.path.size();
  });
  for (const Override& o : parsed) {
    apply(*root_, o, 0, false);
  }
}

bool ConfigTree::has(std::string_view path) const {
  Place nearest;
  return lookup(*root_, path, nearest) != nullptr;
}

std::string ConfigTree::where(std::string_view path) const {
  Place nearest;
  lookup(*root_, path, nearest);
  return nearest.text();
}

}  // namespace ls
