// Config to tree, and the tree as YAML, JSON or a hash; the documentation of fields.
#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "core/config/node.h"
#include "core/config/yaml.h"

namespace ls {
namespace {

// In double quotes, good for YAML and JSON.
std::string quoted(const std::string& s) {
  return nlohmann::json(s).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// Quoted unless every YAML reader takes it for text when it stands alone.
std::string text_of(const std::string& s) {
  static const std::vector<std::string> kReserved = {"true", "false", "null", "yes", "no", "on",
                                                     "off",  "y",     "n",    "nan", "inf"};
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           std::string_view("_./+-").find(c) != std::string_view::npos;
  };
  std::string lower = s;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const bool begins = !s.empty() && plain(s[0]) &&
                      std::string_view("0123456789.+-").find(s[0]) == std::string_view::npos;
  return begins && std::all_of(s.begin(), s.end(), plain) &&
                 std::find(kReserved.begin(), kReserved.end(), lower) == kReserved.end()
             ? s
             : quoted(s);
}

// A range and a closed choice, "" if anything goes.
std::string allowed_text(const Value& value, const FieldOptions& o) {
  if (auto* items = value.as<ItemsValue>()) {
    return allowed_text(items->fresh(), o);
  }
  auto* choice = value.as<EnumValue>();
  return choice != nullptr ? "one of " + joined(allowed_names(*choice, o)) : range_text(o);
}

// A value as it will be written. Entries of a map are its items with keys.
struct Written {
  enum class Kind : std::uint8_t { kPlain, kText, kList, kMap };
  Kind kind = Kind::kPlain;
  std::string text = "null";
  std::vector<Written> items = {};
  bool component = false;  // a map whose first entry is the name
  std::string key = {}, comment = {};
  bool hashed = true;
};
using Kind = Written::Kind;

class Writer final : public FieldVisitor {
 public:
  static Written write(const Value& value) {
    return std::visit([](const auto& v) { return write(*v); }, value.of);
  }
  static Written write(bool value) { return {Kind::kPlain, value ? "true" : "false"}; }
  static Written write(Index value) { return {Kind::kPlain, std::to_string(value)}; }
  static Written write(double value) { return {Kind::kPlain, number_text(value)}; }
  static Written write(const std::string& value) { return {Kind::kText, value}; }
  static Written write(EnumValue& value) { return {Kind::kText, std::string(value.get())}; }
  static Written write(ItemsValue& items) {
    if (items.optional()) {
      return items.size() == 0 ? Written{} : write(items.at(0));
    }
    Written list{Kind::kList};
    for (std::size_t i = 0; i < items.size(); ++i) {
      list.items.push_back(write(items.at(i)));
    }
    return list;
  }
  static Written write(SectionValue& section) {
    Writer writer;
    section.visit(writer);
    return std::move(writer.map_);
  }
  static Written write(const AnyComponent& c) {
    if (!c.chosen()) {
      return {};
    }
    Writer writer;
    writer.map_.component = true;
    writer.put("name", write(c.name()), c.catalog().help(c.name()), true);
    c.config().visit(writer);
    return std::move(writer.map_);
  }

 protected:
  void field(std::string_view name, const Value& value, const FieldOptions& o) override {
    const std::string allowed = allowed_text(value, o);
    put(name, write(value),
        std::string(o.help) + (o.help.empty() || allowed.empty() ? "" : "; ") + allowed, o.hashed);
  }

 private:
  void put(std::string_view key, Written value, std::string comment, bool hashed) {
    value.key = key;
    value.comment = std::move(comment);
    value.hashed = hashed;
    map_.items.push_back(std::move(value));
  }
  Written map_{Kind::kMap};
};

// In YAML's flow style, a component as its name alone; as JSON; or the JSON of what is hashed,
// which may never change, or runs are no longer resumed.
enum class Line : std::uint8_t { kYaml, kJson, kHashed };

std::string in_one_line(const Written& w, Line line = Line::kYaml) {
  const bool yaml = line == Line::kYaml;
  const auto text = [&](const std::string& s) { return yaml ? text_of(s) : quoted(s); };
  if (w.kind == Kind::kPlain) {
    return line == Line::kJson ? nlohmann::json::parse(w.text).dump() : w.text;
  }
  if (w.kind == Kind::kText) {
    return text(w.text);
  }
  if (w.component && yaml) {
    return in_one_line(w.items[0]);
  }
  std::vector<std::string> parts;
  for (const Written& item : w.items) {
    if (line != Line::kHashed || item.hashed) {
      const std::string key = text(item.key) + (yaml ? ": " : ":");
      parts.push_back((w.kind == Kind::kMap ? key : "") + in_one_line(item, line));
    }
  }
  const std::string inner = joined(parts, yaml ? ", " : ",");
  return w.kind == Kind::kMap ? "{" + inner + "}" : "[" + inner + "]";
}

bool fits_in_line(const Written& w) {
  if (w.kind == Kind::kMap) {
    return w.items.empty();
  }
  return std::all_of(w.items.begin(), w.items.end(), [](const Written& item) {
    return item.kind != Kind::kMap && fits_in_line(item);
  });
}

// A map or list in YAML's block style.
std::string in_lines(const Written& w, bool comments, std::size_t indent = 0) {
  std::string out;
  for (const Written& item : w.items) {
    std::string line(indent, ' ');
    line += w.kind == Kind::kMap ? text_of(item.key) + ":" : "-";
    std::string tail = comments && !item.comment.empty() ? "  # " + item.comment : "";
    std::replace(tail.begin(), tail.end(), '\n', ' ');
    if (fits_in_line(item)) {
      out += line + " " + in_one_line(item) + tail + "\n";
      continue;
    }
    std::string below = in_lines(item, comments, indent + 2);
    if (w.kind == Kind::kList && item.kind == Kind::kMap) {
      below[indent] = '-';  // the first key follows the dash
      out += below;
    } else {
      out += line + tail + "\n" + below;
    }
  }
  return out;
}

class Lister final : public FieldVisitor {
 public:
  Lister(std::string& out, std::size_t depth) : out_(out), depth_(depth) {}

 protected:
  void field(std::string_view name, const Value& value, const FieldOptions& o) override {
    out_ += fmt::format("{:{}}{}: {}", "", 2 * depth_, name, type_text(value));
    if (o.required) {
      out_ += ", required";
    } else if (value.as<SectionValue>() == nullptr) {
      out_ += ", default " + in_one_line(Writer::write(value));
    }
    const std::string allowed = allowed_text(value, o);
    out_ += fmt::format("{}{}{}{}\n", allowed.empty() ? "" : ", ", allowed,
                        o.help.empty() ? "" : "  -- ", o.help);
    auto* items = value.as<ItemsValue>();
    const Value element = items != nullptr ? items->fresh() : Value{};
    for (auto* section : {value.as<SectionValue>(), element.as<SectionValue>()}) {
      if (section != nullptr && depth_ < kMaxDepth) {
        Lister inner(out_, depth_ + 1);
        section->visit(inner);
      }
    }
  }

 private:
  static constexpr std::size_t kMaxDepth = 4;  // lists of sections may nest in themselves
  std::string& out_;
  std::size_t depth_;
};

}  // namespace

std::string number_text(double x) {
  char buffer[40];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, x).ptr};
}

std::string range_text(const FieldOptions& o) {
  std::vector<std::string> parts;
  const auto add = [&](const char* sign, const std::optional<double>& bound) {
    if (bound) {
      parts.push_back(sign + number_text(*bound));
    }
  };
  add(">= ", o.min);
  add("> ", o.above);
  add("<= ", o.max);
  add("< ", o.below);
  return joined(parts, " and ");
}

std::vector<std::string> allowed_names(const EnumValue& choice, const FieldOptions& o) {
  const std::span<const std::string_view> all = choice.names();
  const std::span<const std::string_view> names = o.allowed.names.empty() ? all : o.allowed.names;
  return {names.begin(), names.end()};
}

std::string type_text(const Value& value) {
  if (auto* items = value.as<ItemsValue>()) {
    const std::string element = type_text(items->fresh());
    return items->optional() ? element + " or null" : "list of " + element;
  }
  if (auto* component = value.as<AnyComponent>()) {
    return component->catalog().kind();
  }
  constexpr const char* kTypes[] = {"true or false", "integer", "number", "text",
                                    "component",     "text",    "section"};  // as in Value
  return kTypes[value.of.index()];
}

namespace detail {

std::string dump_yaml(SectionValue&& config, bool comments) {
  const Written map = Writer::write(config);
  return map.items.empty() ? "{}\n" : in_lines(map, comments);
}

std::string dump_json(SectionValue&& config) {
  return in_one_line(Writer::write(config), Line::kJson);
}

std::string config_hash(SectionValue&& config) {
  std::uint64_t h = 0xcbf29ce484222325u;  // FNV-1a, 64 bits
  for (const char c : in_one_line(Writer::write(config), Line::kHashed)) {
    h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  }
  return fmt::format("{:016x}", h);
}

std::string describe_fields(SectionValue& config) {
  std::string out;
  Lister lister(out, 0);
  config.visit(lister);
  return out;
}

}  // namespace detail

std::string describe_component(const ComponentCatalog& catalog, std::string_view name) {
  return detail::describe_fields(*catalog.new_config(name));
}

}  // namespace ls
