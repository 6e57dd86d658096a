// Tree to Config: the visitors that fill in fields and say what is wrong.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "core/config/limits.h"
#include "core/config/node.h"
#include "core/config/yaml.h"

namespace ls {
namespace {

using Kind = ConfigNode::Kind;

std::string child(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
}

bool among(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// What may have been meant instead of a name.
std::string hint_of(const std::string& text, const std::vector<std::string>& names) {
  if (text.find('*') != std::string::npos) {
    return std::string(kRepeatHint);
  }
  const std::string near = nearest_name(text, names);
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

// The whole text is one number, which T can hold.
template <class T>
bool parse_whole(std::string_view text, T& x) {
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), x);
  return parsed.ptr == text.data() + text.size() && parsed.ec == std::errc();
}

// Decimal and finite. One sign is allowed, which from_chars takes only if it is a minus.
bool parse_number(std::string_view text, double& x) {
  text.remove_prefix(text.starts_with('+') && !text.starts_with("+-") ? 1 : 0);
  return text.find_first_not_of("0123456789.eE+-") == std::string_view::npos &&
         parse_whole(text, x);
}

std::string unnamed(const ComponentCatalog& catalog) {
  return fmt::format("a {} must be named ('name: ...'); known: {}", catalog.kind(),
                     joined(catalog.names()));
}

// What reading has found so far.
struct Session {
  ConfigPlaces places;
  Index values = 0;

  // An absence, or a condition over fields, is said after what is wrong.
  void add(bool absence, const std::string& place, const std::string& path, std::string what) {
    // What is wrong in a repeated element is said once.
    const std::string name = absence ? path.substr(path.rfind('.') + 1) : "";
    if (seen_.insert(joined(std::vector{place, name, what}, "\n")).second) {
      (absence ? absences_ : problems_)
          .push_back(fmt::format("{}: {}{}{}", place, path, path.empty() ? "" : ": ", what));
    }
  }
  void raise() {
    problems_.insert(problems_.end(), absences_.begin(), absences_.end());
    constexpr std::size_t kShown = 10;
    if (problems_.size() > kShown) {
      const std::size_t more = problems_.size() - kShown;
      problems_.resize(kShown);
      problems_.push_back(fmt::format("and {} more mistakes", more));
    }
    LS_CHECK(problems_.empty(), kConfig, "{}", joined(problems_, "\n"));
  }

 private:
  std::vector<std::string> problems_, absences_;
  std::set<std::string> seen_;
};

// Reads the keys of one map into the fields of the same names.
class Reader final : public FieldVisitor {
 public:
  // A value that is written: where, and into which field.
  struct In {
    const ConfigNode& node;
    const std::string& path;
    const FieldOptions& options;
  };

  Reader(Session& session, const ConfigNode& map, std::string path)
      : session_(session), map_(map), path_(std::move(path)) {}

  void read(const In& in, SectionValue& section) {
    if (in.node.kind != Kind::kMap) {
      const std::optional<std::string> fault =
          in.node.kind == Kind::kScalar ? section.set_word(in.node.text) : std::nullopt;
      if (!fault) {
        return wrong(in, "a section (a map of its own keys) is expected");
      }
      if (!fault->empty()) {
        return session_.add(false, in.node.place.text(), in.path, *fault);
      }
      return session_.places.forget_below(in.path);
    }
    for (const ConfigNode& base : in.node.bases) {
      read({base, in.path, in.options}, section);
    }
    read_keys(in, section, {});
  }

 protected:
  void field(std::string_view name, const Value& value, const FieldOptions& options) override {
    const std::string path = child(path_, name);
    LS_CHECK(!among(known_, name) && name != "extend" && name != "repeat", kInternal,
             "the field '{}' is listed twice or has a reserved name", path);
    known_.emplace_back(name);
    if (const ConfigNode* node = map_.find(name)) {
      read({*node, path, options}, value);
    }
  }

 private:
  void wrong(const In& in, const std::string& expected, std::string_view hint = {}) {
    session_.add(false, in.node.place.text(), in.path,
                 fmt::format("{}, got {}{}", expected, in.node.describe(), hint));
  }
  static bool plain(const ConfigNode& node) { return node.kind == Kind::kScalar && !node.quoted; }

  void read(const In& in, const Value& value) {
    LS_CHECK(++session_.values <= kMaxConfigNodes, kConfig, "{}: {}: more than {} values",
             in.node.place.text(), in.path, kMaxConfigNodes);
    if (!in.node.step || !session_.places.has(in.path)) {
      session_.places.set(in.path, in.node.place.text());
    }
    std::visit([&](const auto& v) { read(in, *v); }, value.of);
  }

  void read(const In& in, bool& value) {
    if (plain(in.node) && (in.node.text == "true" || in.node.text == "false")) {
      value = in.node.text == "true";
    } else {
      wrong(in, "true or false is expected");
    }
  }

  void read(const In& in, Index& value) {
    const std::string expected = with_range("an integer", in.options);
    std::string_view text = in.node.text;
    text.remove_prefix(text.starts_with('+') ? 1 : 0);
    const std::string_view digits = text.substr(text.starts_with('-') ? 1 : 0);
    if (!plain(in.node) || digits.empty() ||
        digits.find_first_not_of("0123456789") != std::string_view::npos) {
      return wrong(in, expected + " is expected", number_hint(in.node, true));
    }
    if (digits.size() > 1 && digits.front() == '0') {
      return wrong(in, expected + " is expected, without leading zeros");
    }
    Index x = 0;
    if (!parse_whole(text, x)) {
      return wrong(in, expected + " of at most 64 bits is expected");
    }
    if (!in_range(static_cast<double>(x), in.options)) {
      return wrong(in, expected + " is expected");
    }
    if (!in.options.max && std::abs(x) > kMaxInteger) {
      return wrong(in, x > 0
                           ? fmt::format("{} of at most {} is expected", expected, kMaxInteger)
                           : fmt::format("{} of at least {} is expected", expected, -kMaxInteger));
    }
    value = x;
  }

  void read(const In& in, double& value) {
    double x = 0;
    if (!plain(in.node) || !parse_number(in.node.text, x) || !in_range(x, in.options)) {
      return wrong(in, with_range("a number", in.options) + " is expected",
                   number_hint(in.node, false));
    }
    value = x;
  }

  // How to write the number that `node` seems to mean.
  static std::string number_hint(const ConfigNode& node, bool whole) {
    std::string text = node.text;
    std::erase(text, '_');
    double x = 0;
    if (node.kind != Kind::kScalar || !parse_number(text, x)) {
      return "";
    }
    if (node.quoted) {
      return "; write it without quotes";
    }
    if (whole && x == std::floor(x) && std::abs(x) < 1e15) {
      return fmt::format("; write {}", static_cast<Index>(x));
    }
    return text == node.text ? "" : "; write " + text;
  }

  void read(const In& in, std::string& value) {
    if (in.node.kind != Kind::kScalar) {
      wrong(in, "text is expected");
    } else if (in.node.text.size() < in.options.min_size) {
      wrong(in, fmt::format("text of at least {} bytes is expected", in.options.min_size));
    } else {
      value = in.node.text;
    }
  }

  void read(const In& in, EnumValue& value) {
    const std::vector<std::string> names = allowed_names(value, in.options);
    const bool text = in.node.kind == Kind::kScalar;
    if (!text || !among(names, in.node.text)) {
      return wrong(in, fmt::format("one of {} is expected", joined(names)),
                   text ? hint_of(in.node.text, names) : "");
    }
    value.set(in.node.text);
  }

  void read_keys(const In& in, SectionValue& section, std::vector<std::string> known) {
    Reader inner(session_, in.node, in.path);
    inner.known_ = std::move(known);
    section.visit(inner);
    inner.refuse_unknown_keys();
  }

  void refuse_unknown_keys() {
    for (const ConfigNode::Key& key : map_.keys) {
      if (among(known_, key.text)) {
        continue;
      }
      std::string what = "unknown key" + hint_of(key.text, known_);
      if (key.text == "extend") {
        what = "unknown key: extend works in files only";
      } else if (key.text == "<<") {
        what = "YAML merge keys are not used here; use 'extend: file.yaml'";
      }
      session_.add(false, key.place.text(), child(path_, key.text),
                   fmt::format("{}{} allowed here: {}, extend", what, what.back() == '?' ? "" : ";",
                               joined(known_)));
    }
  }

  void read(const In& in, AnyComponent& c) {
    const ConfigNode& node = in.node;
    if (node.kind == Kind::kScalar) {
      choose(in, node, c);
      return;
    }
    if (node.kind != Kind::kMap) {
      return wrong(in, fmt::format("a {} is expected, by name or as a map {{name: ..., settings}}",
                                   c.catalog().kind()));
    }
    // A name written here also names the component whose settings the bases give without a name.
    const ConfigNode* name = node.find("name");
    if (name != nullptr && !std::any_of(node.bases.begin(), node.bases.end(), names_component) &&
        !choose(in, *name, c)) {
      return;
    }
    for (const ConfigNode& base : node.bases) {
      read({base, in.path, in.options}, c);
    }
    if (name != nullptr && !choose(in, *name, c)) {
      return;
    }
    if (c.chosen()) {
      read_keys(in, c.config(), {"name"});
    } else if (!node.keys.empty()) {
      session_.add(true, node.place.text(), in.path, unnamed(c.catalog()));
    }
  }

  static bool names_component(const ConfigNode& map) {
    return map.find("name") != nullptr ||
           std::any_of(map.bases.begin(), map.bases.end(), names_component);
  }

  // False if `name` is none.
  bool choose(const In& in, const ConfigNode& name, AnyComponent& c) {
    const ComponentCatalog& catalog = c.catalog();
    const std::string path = child(in.path, "name");
    session_.places.set(path, name.place.text());
    if (name.kind != Kind::kScalar) {
      wrong({name, path, in.options}, fmt::format("the name of a {} is expected", catalog.kind()));
      return false;
    }
    const std::vector<std::string> names = catalog.names();
    if (!among(names, name.text)) {
      const std::string hint = hint_of(name.text, names);
      session_.add(false, name.place.text(), in.path,
                   fmt::format("unknown {} '{}'{} known: {}", catalog.kind(), name.text,
                               hint.ends_with('?') ? hint : hint + ";", joined(names)));
      return false;
    }
    if (name.text != c.name()) {
      c.choose(name.text);
      session_.places.forget_below(in.path);
    }
    return true;
  }

  void read(const In& in, ItemsValue& items) {
    const ConfigNode& node = in.node;
    if (items.optional()) {
      const std::string_view word = in.options.null_word;
      if (node.kind == Kind::kNull || (!word.empty() && plain(node) && node.text == word)) {
        return items.resize(0);
      }
      if (items.size() == 0) {
        items.resize(1);
      }
      return read(in, items.at(0));
    }
    if (node.step) {
      return element(in, items);
    }
    if (node.kind != Kind::kList) {
      std::string hint;
      if (node.kind == Kind::kScalar) {
        const bool repetition = node.text.find('*') != std::string::npos;
        hint = repetition ? std::string(kRepeatHint) : fmt::format("; write [{}]", node.text);
      }
      return wrong(in, fmt::format("a list of {} is expected", type_text(items.fresh())), hint);
    }
    std::vector<const ConfigNode*> elements;
    if (!write_out(node, in.path, elements)) {
      return;
    }
    const std::size_t n = elements.size(), least = in.options.min_size;
    if (n < least) {
      return session_.add(false, node.place.text(), in.path,
                          fmt::format("at least {} element{} expected, got {}", least,
                                      least == 1 ? " is" : "s are", n));
    }
    items.resize(0);
    items.resize(n);
    session_.places.forget_below(in.path);
    FieldOptions options = in.options;
    options.min_size = 0;
    for (std::size_t i = 0; i < n; ++i) {
      read({*elements[i], child(in.path, std::to_string(i)), options}, items.at(i));
    }
  }

  // The element that an override names by its number, or all of them.
  void element(const In& in, ItemsValue& items) {
    const std::string& key = in.node.keys[0].text;
    std::size_t i = 0;
    if (key == "*" && items.size() > 0) {
      for (; i < items.size(); ++i) {
        read({in.node.items[0], child(in.path, std::to_string(i)), in.options}, items.at(i));
      }
      return;
    }
    if (!parse_whole(key, i) || i >= items.size()) {
      return session_.add(
          false, in.node.place.text(), in.path,
          items.size() == 0
              ? fmt::format("this list has no elements, so '{}' cannot be set", key)
              : fmt::format("this list ({}) has {} elements; '{}' is none of 0 to {}",
                            session_.places.where(in.path), items.size(), key, items.size() - 1));
    }
    read({in.node.items[0], child(in.path, key), in.options}, items.at(i));
  }

  // Appends the elements of a list, repetitions written out; false if one is wrong.
  bool write_out(const ConfigNode& list, const std::string& path,
                 std::vector<const ConfigNode*>& out) {
    for (const ConfigNode& item : list.items) {
      const ConfigNode* repeat = item.find("repeat");
      if (repeat == nullptr) {
        out.push_back(&item);
        continue;
      }
      const ConfigNode* of = item.find("of");
      std::size_t times = 0;
      if (of == nullptr || item.keys.size() != 2 || !plain(*repeat) ||
          !parse_whole(repeat->text, times) || times < 1) {
        session_.add(false, item.place.text(), path,
                     "a repetition is written {repeat: 3, of: [a, b]}, with a whole "
                     "number of at least 1 and no other keys");
        return false;
      }
      std::vector<const ConfigNode*> once;
      if (of->kind != Kind::kList) {
        once.push_back(of);
      } else if (!write_out(*of, path, once)) {
        return false;
      }
      constexpr auto kMost = static_cast<std::size_t>(kMaxConfigNodes);
      if (times > kMost || times * once.size() + out.size() > kMost) {
        session_.add(false, repeat->place.text(), path,
                     fmt::format("a list may have at most {} elements", kMost));
        return false;
      }
      for (std::size_t t = 0; t < times; ++t) {
        out.insert(out.end(), once.begin(), once.end());
      }
    }
    return true;
  }

  Session& session_;
  const ConfigNode& map_;
  std::string path_;
  std::vector<std::string> known_;
};

// Looks at a Config that has been read: what is missing, and the conditions over fields.
class Checker final : public FieldVisitor {
 public:
  Checker(Session& session, std::string path) : session_(session), path_(std::move(path)) {}

 protected:
  void field(std::string_view name, const Value& value, const FieldOptions& o) override {
    const std::string path = child(path_, name);
    if (o.required && !session_.places.has(path)) {
      absent(path, fmt::format("this key is required{}{}", o.help.empty() ? "" : ": ", o.help));
    } else {
      check_below(value, path);
    }
  }
  void failed(std::string_view field, std::string_view message) override {
    absent(child(path_, field), std::string(message));
  }

 private:
  void absent(const std::string& path, const std::string& what) {
    session_.add(true, session_.places.where(path), path, what);
  }
  void check_below(const Value& value, const std::string& path) {
    Checker inner(session_, path);
    if (auto* section = value.as<SectionValue>()) {
      section->visit(inner);
    } else if (auto* items = value.as<ItemsValue>()) {
      for (std::size_t i = 0; i < items->size(); ++i) {
        check_below(items->at(i), items->optional() ? path : child(path, std::to_string(i)));
      }
    } else if (auto* component = value.as<AnyComponent>()) {
      if (component->chosen()) {
        component->config().visit(inner);
      } else if (!session_.places.has(child(path, "name"))) {
        absent(path, unnamed(component->catalog()));
      }
    }
  }

  Session& session_;
  std::string path_;
};

}  // namespace

const std::string& ConfigPlaces::where(std::string_view path) const {
  const auto it = places_.find(path);
  if (it != places_.end() || path.empty()) {
    return it->second;
  }
  const std::size_t dot = path.rfind('.');
  return where(path.substr(0, dot == std::string_view::npos ? 0 : dot));
}

void ConfigPlaces::forget_below(const std::string& path) {
  places_.erase(places_.lower_bound(path + "."), places_.lower_bound(path + "/"));
}

ConfigPlaces detail::read_config(const ConfigTree& tree, SectionValue&& config) {
  Session session;
  session.places.set("", tree.layers().front().place.text());
  for (const ConfigNode& layer : tree.layers()) {
    Reader(session, layer, "").read({layer, "", {}}, config);
  }
  Checker checker(session, "");
  config.visit(checker);
  session.raise();
  return std::move(session.places);
}

}  // namespace ls
