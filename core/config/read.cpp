// Tree to Config: the visitor that fills in fields and says what is wrong with a tree.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <unordered_set>

#include "core/config/node.h"
#include "core/config/pattern.h"
#include "core/config/shared.h"
#include "core/config/yaml.h"

namespace ls {
namespace {

using Kind = ConfigNode::Kind;

struct Problem {
  bool absence;  // something missing, or a condition over fields: reported after what is wrong
  std::string text;
};
using Problems = std::vector<Problem>;

std::string child(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
}

std::string did_you_mean(std::string_view name, const std::vector<std::string>& known) {
  const std::string near = nearest_name(name, known);
  return near.empty() ? "" : fmt::format(", did you mean '{}'?", near);
}

// "an integer >= 1" and the like.
std::string with_range(const char* what, const FieldOptions& o) {
  const std::string range = range_text(o);
  return range.empty() ? what : fmt::format("{} {}", what, range);
}

bool in_range(double x, const FieldOptions& o) {
  return !(o.min && !(x >= *o.min)) && !(o.max && !(x <= *o.max)) &&
         !(o.above && !(x > *o.above)) && !(o.below && !(x < *o.below));
}

class Reader final : public FieldVisitor {
 public:
  // `map` may be null: then nothing is written here and only absences are noticed.
  Reader(Problems& problems, const ConfigNode* map, Place place, std::string path, int depth,
         std::uint64_t components)
      : problems_(problems),
        map_(map),
        place_(std::move(place)),
        path_(std::move(path)),
        depth_(depth),
        components_(components) {}

  void expect(std::string key) { known_.push_back(std::move(key)); }

  // After the last field: keys that no field asked for.
  void finish() {
    for (std::size_t i = 0; map_ != nullptr && i < map_->keys.size(); ++i) {
      const ConfigNode::Key& key = map_->keys[i];
      if (!visible(key) || std::find(known_.begin(), known_.end(), key.text) != known_.end()) {
        continue;
      }
      std::string what = "unknown key" + did_you_mean(key.text, known_);
      if (key.text == "<<") {
        what = "YAML merge keys are not used here; use 'extend: file.yaml'";
      }
      std::vector<std::string> allowed = known_;
      allowed.push_back("extend");
      problem(key.place, child(path_, key.text),
              fmt::format("{}{} allowed here: {}", what, what.back() == '?' ? "" : ";",
                          joined(allowed)));
    }
    for (Problem& p : deferred_) {
      problems_.push_back(std::move(p));
    }
  }

  void read(const ConfigNode& node, ValueRef value, const FieldOptions& o, const std::string& path,
            int depth) {
    const ValueOps& ops = *value.ops;
    switch (ops.kind) {
      case ValueKind::kBool:
        if (node.kind == Kind::kScalar && !node.quoted &&
            (node.text == "true" || node.text == "false")) {
          *static_cast<bool*>(value.at) = node.text == "true";
        } else {
          wrong(node, path, "true or false is expected");
        }
        return;
      case ValueKind::kInt32:
      case ValueKind::kInt64:
        return integer(node, value, o, path);
      case ValueKind::kFloat:
        return number(node, *static_cast<double*>(value.at), o, path);
      case ValueKind::kText:
        return text(node, *static_cast<std::string*>(value.at), o, path);
      case ValueKind::kEnum: {
        const auto it = std::find(ops.names.begin(), ops.names.end(), node.text);
        if (node.kind != Kind::kScalar || it == ops.names.end()) {
          return wrong_choice(node, choices_of(ops, o), path);
        }
        return ops.set_enum(value.at, it - ops.names.begin());
      }
      case ValueKind::kOptional:
        if (node.kind == Kind::kNull) {
          return ops.resize(value.at, 0);
        }
        if (ops.size(value.at) == 0) {
          ops.resize(value.at, 1);
        }
        return read(node, {ops.element(value.at, 0), ops.inner}, o, path, depth);
      case ValueKind::kList:
        return list(node, value, o, path, depth);
      case ValueKind::kMap:
        return map(node, value, o, path, depth);
      case ValueKind::kSection:
        return section(&node, node.place, value, path, depth);
      case ValueKind::kComponent:
        return component(&node, node.place, ops.component(value.at), path, depth);
    }
  }

  void section(const ConfigNode* node, const Place& place, ValueRef value, const std::string& path,
               int depth) {
    if (node != nullptr && (node->kind != Kind::kMap || is_short_form(*node))) {
      const ConfigNode& shown = node->kind == Kind::kMap ? node->items[0] : *node;
      return wrong(shown, path, "a section (a map of its own keys) is expected");
    }
    Reader inner(problems_, node, place, path, depth, components_);
    inner.muted_ = muted_;
    value.ops->visit(value.at, inner);
    inner.finish();
  }

  void component(const ConfigNode* node, const Place& place, AnyComponent& c,
                 const std::string& path, int depth) {
    const ComponentCatalog& catalog = c.catalog();
    const ConfigNode* name = nullptr;
    const ConfigNode* settings = nullptr;
    if (node != nullptr && node->kind == Kind::kScalar) {
      name = node;
    } else if (node != nullptr && node->kind == Kind::kMap) {
      settings = node;
      const int at = node->find("name");
      name = at < 0 ? nullptr : &node->items[static_cast<std::size_t>(at)];
    } else if (node != nullptr) {
      return wrong(*node, path,
                   fmt::format("a {} is expected, by name or as a map {{name: ..., settings}}",
                               catalog.kind()));
    }
    if (name != nullptr) {
      const std::vector<std::string> names = catalog.names();
      if (name->kind != Kind::kScalar) {
        return wrong(*name, child(path, "name"),
                     fmt::format("the name of a {} is expected", catalog.kind()));
      }
      if (std::find(names.begin(), names.end(), name->text) == names.end()) {
        const std::string near = did_you_mean(name->text, names);
        return problem(name->place, path,
                       fmt::format("unknown {} '{}'{} known: {}", catalog.kind(), name->text,
                                   near.empty() ? ";" : near, joined(names)));
      }
      if (name->text != c.name()) {
        c.choose(name->text);
      }
    }
    if (!c.chosen()) {
      return absent(place, path,
                    fmt::format("a {} must be named ('name: ...'); known: {}", catalog.kind(),
                                joined(catalog.names())));
    }
    const std::uint64_t bit = depth < 64 ? std::uint64_t{1} << depth : 0;
    Reader inner(problems_, settings, place, path, depth, components_ | bit);
    inner.muted_ = muted_;
    inner.expect("name");
    c.config().visit(inner);
    inner.finish();
  }

 protected:
  void field(std::string_view name, ValueRef value, const FieldOptions& o) override {
    LS_CHECK(std::find(known_.begin(), known_.end(), name) == known_.end() && name != "extend",
             kInternal, "the field '{}' is listed twice or is a reserved name", child(path_, name));
    known_.emplace_back(name);
    const std::string path = child(path_, name);
    const int at = map_ == nullptr ? -1 : map_->find(name);
    if (at >= 0 && visible(map_->keys[static_cast<std::size_t>(at)])) {
      return read(map_->items[static_cast<std::size_t>(at)], value, o, path, depth_ + 1);
    }
    if (o.required) {
      absent(place_, path,
             fmt::format("this key is required{}{}", o.help.empty() ? "" : ": ", o.help));
    } else if (value.ops->kind == ValueKind::kSection) {
      section(nullptr, place_, value, path, depth_ + 1);
    } else if (value.ops->kind == ValueKind::kComponent) {
      component(nullptr, place_, value.ops->component(value.at), path, depth_ + 1);
    }
  }

  void failed(std::string_view field, std::string_view message) override {
    Place place = place_;
    if (const int at = map_ == nullptr ? -1 : map_->find(field); at >= 0) {
      place = map_->items[static_cast<std::size_t>(at)].place;
    }
    absent(place, child(path_, field), std::string(message));
  }

 private:
  bool visible(const ConfigNode::Key& key) const { return (key.stale & components_) == 0; }

  static bool is_short_form(const ConfigNode& map) {
    return !map.keys.empty() && map.keys[0].short_form;
  }

  void problem(const Place& place, const std::string& path, const std::string& what) {
    if (!muted_) {
      problems_.push_back(
          {false, fmt::format("{}: {}{}{}", place.text(), path, path.empty() ? "" : ": ", what)});
    }
  }
  void absent(const Place& place, const std::string& path, const std::string& what) {
    if (!muted_) {
      deferred_.push_back({true, fmt::format("{}: {}: {}", place.text(), path, what)});
    }
  }
  void wrong(const ConfigNode& node, const std::string& path, const std::string& expected) {
    problem(node.place, path, fmt::format("{}, got {}", expected, node.describe()));
  }
  void wrong_choice(const ConfigNode& node, const std::vector<std::string>& choices,
                    const std::string& path) {
    wrong(node, path, fmt::format("one of {} is expected", joined(choices)));
    if (!muted_ && node.kind == Kind::kScalar) {
      problems_.back().text += did_you_mean(node.text, choices);
    }
  }

  void integer(const ConfigNode& node, ValueRef value, const FieldOptions& o,
               const std::string& path) {
    const bool small = value.ops->kind == ValueKind::kInt32;
    const std::string expected = with_range("an integer", o);
    std::string_view digits = node.text;
    if (digits.starts_with('+')) {
      digits.remove_prefix(1);
    }
    Index x = 0;
    const char* end = digits.data() + digits.size();
    const auto parsed = std::from_chars(digits.data(), end, x);
    const std::string_view unsigned_part = digits.substr(digits.starts_with('-') ? 1 : 0);
    const bool whole = !unsigned_part.empty() &&
                       unsigned_part.find_first_not_of("0123456789") == std::string_view::npos;
    if (node.kind != Kind::kScalar || node.quoted || !whole) {
      wrong(node, path, expected + " is expected");
      double d = 0;
      const auto as_double = std::from_chars(digits.data(), end, d);
      if (!muted_ && node.kind == Kind::kScalar) {
        if (whole) {
          problems_.back().text += "; write it without quotes";
        } else if (as_double.ec == std::errc() && as_double.ptr == end && d == std::floor(d) &&
                   std::abs(d) < 1e15) {
          problems_.back().text += fmt::format("; write {}", static_cast<Index>(d));
        } else if (node.text.find('_') != std::string::npos) {
          hint_underscore(node.text);
        }
      }
      return;
    }
    if (unsigned_part.size() > 1 && unsigned_part.front() == '0') {
      return wrong(node, path, expected + " is expected, without leading zeros");
    }
    if (parsed.ec != std::errc() ||
        (small && (x < std::numeric_limits<int>::min() || x > std::numeric_limits<int>::max()))) {
      return wrong(node, path,
                   fmt::format("{} of at most {} bits is expected", expected, small ? 32 : 64));
    }
    if (!in_range(static_cast<double>(x), o)) {
      return wrong(node, path, expected + " is expected");
    }
    if (small) {
      *static_cast<int*>(value.at) = static_cast<int>(x);
    } else {
      *static_cast<Index*>(value.at) = x;
    }
  }

  void hint_underscore(std::string text) {
    std::erase(text, '_');
    if (!text.empty() && text.find_first_not_of("0123456789.eE+-") == std::string::npos) {
      problems_.back().text += fmt::format("; write {}", text);
    }
  }

  void number(const ConfigNode& node, double& value, const FieldOptions& o,
              const std::string& path) {
    const std::string expected = with_range("a number", o) + " is expected";
    double x = 0;
    switch (node.kind == Kind::kScalar && !node.quoted ? parse_number(node.text, x)
                                                       : Number::kNone) {
      case Number::kNone:
        wrong(node, path, expected);
        if (!muted_ && node.kind == Kind::kScalar) {
          if (node.quoted && parse_number(node.text, x) == Number::kGood) {
            problems_.back().text += "; write it without quotes";
          } else {
            hint_underscore(node.text);
          }
        }
        return;
      case Number::kTooLarge:
        return wrong(node, path, expected + " within the range of a double");
      case Number::kGood:
        break;
    }
    if (std::isnan(x) || (std::isinf(x) && !o.allow_inf)) {
      return wrong(
          node, path,
          o.allow_inf ? expected + ", not NaN" : with_range("a finite number", o) + " is expected");
    }
    if (!in_range(x, o)) {
      return wrong(node, path, expected);
    }
    value = x;
  }

  enum class Number { kNone, kTooLarge, kGood };
  static Number parse_number(std::string_view text, double& x) {
    if (text.starts_with('+')) {
      text.remove_prefix(1);
      if (text.starts_with('-')) {
        return Number::kNone;
      }
    }
    const bool minus = text.starts_with('-');
    const std::string_view body = text.substr(minus ? 1 : 0);
    if (body == ".inf" || body == "inf") {
      x = minus ? -INFINITY : INFINITY;
      return Number::kGood;
    }
    if (body == ".nan" || body == "nan" || body == ".NaN" || body == "NaN") {
      x = NAN;
      return Number::kGood;
    }
    if (body.empty() || body.find_first_not_of("0123456789.eE+-") != std::string_view::npos) {
      return Number::kNone;
    }
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, x);
    if (parsed.ptr != end || parsed.ec == std::errc::invalid_argument) {
      return Number::kNone;
    }
    return parsed.ec == std::errc() ? Number::kGood : Number::kTooLarge;
  }

  void text(const ConfigNode& node, std::string& value, const FieldOptions& o,
            const std::string& path) {
    if (!o.choices.empty() &&
        (node.kind != Kind::kScalar ||
         std::find(o.choices.begin(), o.choices.end(), node.text) == o.choices.end())) {
      return wrong_choice(node, o.choices, path);
    }
    if (node.kind != Kind::kScalar) {
      return wrong(node, path, "text is expected");
    }
    const auto size = static_cast<Index>(node.text.size());
    if (size < o.min_size || (o.max_size && size > *o.max_size)) {
      return wrong(node, path, fmt::format("text of {} bytes is expected", size_range(o)));
    }
    value = node.text;
  }

  static std::string size_range(const FieldOptions& o) {
    return o.max_size ? fmt::format("{} to {}", o.min_size, *o.max_size)
                      : fmt::format("at least {}", o.min_size);
  }

  bool check_size(const ConfigNode& node, Index size, const FieldOptions& o,
                  const std::string& path) {
    const bool good = size >= o.min_size && (!o.max_size || size <= *o.max_size);
    if (!good) {
      problem(node.place, path,
              fmt::format("{} element{} expected, got {}", size_range(o),
                          !o.max_size && o.min_size == 1 ? " is" : "s are", size));
    }
    return good;
  }

  // Options of the elements: sizes speak of the list itself.
  static FieldOptions element_options(const FieldOptions& o) {
    FieldOptions e = o;
    e.min_size = 0;
    e.max_size.reset();
    e.pattern = false;
    return e;
  }

  void list(const ConfigNode& node, ValueRef value, const FieldOptions& o, const std::string& path,
            int depth) {
    if (!o.pattern && node.kind != Kind::kList &&
        !(node.kind == Kind::kScalar && node.text.starts_with('['))) {
      wrong(node, path, fmt::format("a {} is expected", type_text(*value.ops)));
      if (!muted_ && node.kind == Kind::kScalar && value.ops->inner->kind != ValueKind::kSection) {
        problems_.back().text += fmt::format("; write [{}]", node.text);
      }
      return;
    }
    const ListElements elements = list_elements(node, o.pattern);
    if (!elements.fault.empty()) {
      return problem(elements.fault_place, path, elements.fault);
    }
    const auto n = static_cast<Index>(elements.nodes.size());
    if (!check_size(node, n, o, path)) {
      return;
    }
    value.ops->resize(value.at, 0);
    value.ops->resize(value.at, n);
    const FieldOptions eo = element_options(o);
    std::unordered_set<const ConfigNode*> seen;
    const bool muted = muted_;
    for (Index i = 0; i < n; ++i) {
      const ConfigNode* element = elements.nodes[static_cast<std::size_t>(i)];
      muted_ = muted || !seen.insert(element).second;
      read(*element, {value.ops->element(value.at, i), value.ops->inner}, eo,
           child(path, fmt::format("{}", i)), depth + 1);
    }
    muted_ = muted;
  }

  void map(const ConfigNode& node, ValueRef value, const FieldOptions& o, const std::string& path,
           int depth) {
    if (node.kind != Kind::kMap || is_short_form(node)) {
      return wrong(node, path, fmt::format("a {} is expected", type_text(*value.ops)));
    }
    value.ops->resize(value.at, 0);
    const FieldOptions eo = element_options(o);
    Index n = 0;
    for (std::size_t i = 0; i < node.keys.size(); ++i) {
      if (visible(node.keys[i])) {
        read(node.items[i], {value.ops->insert(value.at, node.keys[i].text), value.ops->inner}, eo,
             child(path, node.keys[i].text), depth + 1);
        ++n;
      }
    }
    check_size(node, n, o, path);
  }

  Problems& problems_;
  Problems deferred_;
  const ConfigNode* map_;
  Place place_;
  std::string path_;
  int depth_;
  std::uint64_t components_;  // depths of the components around this map, as bits
  bool muted_ = false;        // a repeated element, whose problems have been reported
  std::vector<std::string> known_;
};

}  // namespace

bool looks_like_number(std::string_view text) {
  return !text.empty() && text.find_first_of("0123456789") != std::string_view::npos &&
         text.find_first_not_of("0123456789.eExX+-_:") == std::string_view::npos;
}

namespace detail {

void read_node(const ConfigNode& root, ValueRef config) {
  Problems problems;
  Reader reader(problems, nullptr, root.place, "", 0, 0);
  reader.read(root, config, {}, "", 0);
  reader.finish();
  if (problems.empty()) {
    return;
  }
  std::stable_sort(problems.begin(), problems.end(),
                   [](const Problem& a, const Problem& b) { return a.absence < b.absence; });
  constexpr std::size_t kShown = 10;
  std::string text = problems[0].text;
  for (std::size_t i = 1; i < std::min(problems.size(), kShown); ++i) {
    text += "\n" + problems[i].text;
  }
  if (problems.size() > kShown) {
    text += fmt::format("\nand {} more mistakes", problems.size() - kShown);
  }
  LS_FAIL(kConfig, "{}", text);
}

void read_config(const ConfigTree& tree, ValueRef config) {
  read_node(tree.root(), config);
}

}  // namespace detail
}  // namespace ls
