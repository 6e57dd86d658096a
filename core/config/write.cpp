// Config to tree, and a tree as YAML, JSON or a hash; the documentation of fields.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "core/config/node.h"
#include "core/config/shared.h"
#include "core/config/yaml.h"

namespace ls {
namespace {

using Kind = ConfigNode::Kind;
using ScalarType = ConfigNode::ScalarType;

// Text that every YAML reader takes for text when it stands alone.
bool plain_text(const std::string& s) {
  static const std::vector<std::string> kReserved = {
      "true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf", ".nan", ".inf"};
  if (s.empty() || looks_like_number(s)) {
    return false;
  }
  const auto first = static_cast<unsigned char>(s[0]);
  if (!std::isalpha(first) && first != '_' && first != '/' && first != '.') {
    return false;
  }
  for (const char c : s) {
    if (!std::isalnum(static_cast<unsigned char>(c)) &&
        std::string_view("_./+-").find(c) == std::string_view::npos) {
      return false;
    }
  }
  std::string lower = s;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return std::find(kReserved.begin(), kReserved.end(), lower) == kReserved.end();
}

// In double quotes, good for YAML and JSON.
std::string quoted_text(const std::string& s) {
  std::string out = "\"";
  for (const char c : s) {
    switch (c) {
      case '"':
      case '\\':
        out += '\\';
        out += c;
        break;
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\r':
        out += "\\r";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

std::string text_of(const std::string& s) {
  return plain_text(s) ? s : quoted_text(s);
}

class Writer final : public FieldVisitor {
 public:
  explicit Writer(ConfigNode& map) : map_(map) { map_.kind = Kind::kMap; }

  void put(std::string key, ConfigNode value, bool hashed, std::string comment) {
    ConfigNode::Key k;
    k.text = std::move(key);
    k.hashed = hashed;
    k.comment = std::move(comment);
    map_.keys.push_back(std::move(k));
    map_.items.push_back(std::move(value));
  }

  static ConfigNode write(ValueRef value, const FieldOptions& o) {
    const ValueOps& ops = *value.ops;
    switch (ops.kind) {
      case ValueKind::kBool:
        return scalar(*static_cast<bool*>(value.at) ? "true" : "false", ScalarType::kBool);
      case ValueKind::kInt32:
        return scalar(fmt::format("{}", *static_cast<int*>(value.at)), ScalarType::kNumber);
      case ValueKind::kInt64:
        return scalar(fmt::format("{}", *static_cast<Index*>(value.at)), ScalarType::kNumber);
      case ValueKind::kFloat:
        return scalar(number_text(*static_cast<double*>(value.at)), ScalarType::kNumber);
      case ValueKind::kText:
        return scalar(*static_cast<std::string*>(value.at), ScalarType::kText);
      case ValueKind::kEnum:
        return scalar(std::string(ops.names[static_cast<std::size_t>(ops.get_enum(value.at))]),
                      ScalarType::kText);
      case ValueKind::kOptional:
        return ops.size(value.at) == 0 ? ConfigNode{}
                                       : write({ops.element(value.at, 0), ops.inner}, o);
      case ValueKind::kList: {
        ConfigNode list;
        list.kind = Kind::kList;
        const Index n = ops.size(value.at);
        for (Index i = 0; i < n; ++i) {
          list.items.push_back(write({ops.element(value.at, i), ops.inner}, o));
        }
        return list;
      }
      case ValueKind::kMap: {
        ConfigNode map;
        Writer writer(map);
        const Index n = ops.size(value.at);
        for (Index i = 0; i < n; ++i) {
          writer.put(ops.key(value.at, i), write({ops.element(value.at, i), ops.inner}, o), true,
                     "");
        }
        return map;
      }
      case ValueKind::kSection: {
        ConfigNode map;
        Writer writer(map);
        ops.visit(value.at, writer);
        return map;
      }
      case ValueKind::kComponent: {
        const AnyComponent& c = ops.component(value.at);
        if (!c.chosen()) {
          return {};
        }
        ConfigNode map;
        map.component = true;
        Writer writer(map);
        writer.put("name", scalar(c.name(), ScalarType::kText), true, c.catalog().help(c.name()));
        c.config().visit(writer);
        return map;
      }
    }
    return {};
  }

 protected:
  void field(std::string_view name, ValueRef value, const FieldOptions& o) override {
    std::string comment(o.help);
    const std::string range = range_text(o);
    if (!range.empty()) {
      comment += (comment.empty() ? "" : "; ") + range;
    }
    if (const std::vector<std::string> choices = choices_of(*value.ops, o); !choices.empty()) {
      comment += (comment.empty() ? "one of " : "; one of ") + joined(choices);
    }
    put(std::string(name), write(value, o), o.hashed, std::move(comment));
  }

 private:
  static ConfigNode scalar(std::string text, ScalarType type) {
    ConfigNode node;
    node.kind = Kind::kScalar;
    node.type = type;
    node.text = std::move(text);
    return node;
  }
  ConfigNode& map_;
};

class Printer {
 public:
  explicit Printer(const DumpOptions& options) : options_(options) {}

  std::string run(const ConfigNode& root) {
    if (shown(root) == 0) {
      return "{}\n";
    }
    map(root, 0, false);
    return std::move(out_);
  }

  // In flow style; a component is its name alone.
  std::string in_one_line(const ConfigNode& n) const {
    std::string s;
    switch (n.kind) {
      case Kind::kNull:
        return "null";
      case Kind::kScalar:
        return n.type == ScalarType::kText ? text_of(n.text) : n.text;
      case Kind::kList:
        for (const ConfigNode& item : n.items) {
          s += (s.empty() ? "" : ", ") + in_one_line(item);
        }
        return "[" + s + "]";
      case Kind::kMap:
        break;
    }
    if (n.component) {
      return in_one_line(n.items[0]);
    }
    for (std::size_t i = 0; i < n.items.size(); ++i) {
      s += (s.empty() ? "" : ", ") + text_of(n.keys[i].text) + ": " + in_one_line(n.items[i]);
    }
    return "{" + s + "}";
  }

 private:
  std::size_t shown(const ConfigNode& map) const {
    return static_cast<std::size_t>(
        std::count_if(map.keys.begin(), map.keys.end(),
                      [&](const ConfigNode::Key& k) { return k.hashed || !options_.hashed_only; }));
  }
  bool in_line(const ConfigNode& n) const {
    if (n.kind == Kind::kMap) {
      return shown(n) == 0;
    }
    return n.kind != Kind::kList ||
           std::all_of(n.items.begin(), n.items.end(),
                       [&](const ConfigNode& i) { return i.kind != Kind::kMap && in_line(i); });
  }
  // `first_in_line`: the first key continues a line that has been begun with "- ".
  void map(const ConfigNode& node, std::size_t indent, bool first_in_line) {
    for (std::size_t i = 0; i < node.keys.size(); ++i) {
      const ConfigNode::Key& key = node.keys[i];
      if (options_.hashed_only && !key.hashed) {
        continue;
      }
      out_ += (first_in_line ? "" : std::string(indent, ' ')) + text_of(key.text) + ":";
      first_in_line = false;
      value(node.items[i], indent, options_.comments ? key.comment : "");
    }
  }
  void value(const ConfigNode& n, std::size_t indent, const std::string& comment) {
    const std::string tail = comment.empty() ? "\n" : "  # " + one_line(comment) + "\n";
    if (in_line(n)) {
      out_ += " " + (n.kind == Kind::kMap ? "{}" : in_one_line(n)) + tail;
      return;
    }
    out_ += tail;
    if (n.kind == Kind::kMap) {
      map(n, indent + 2, false);
    } else {
      list(n, indent + 2);
    }
  }
  void list(const ConfigNode& n, std::size_t indent) {
    for (const ConfigNode& item : n.items) {
      out_ += std::string(indent, ' ') + "-";
      if (!in_line(item) && item.kind == Kind::kMap) {
        out_ += " ";
        map(item, indent + 2, true);
      } else {
        value(item, indent, "");
      }
    }
  }
  static std::string one_line(std::string s) {
    std::replace(s.begin(), s.end(), '\n', ' ');
    return s;
  }

  DumpOptions options_;
  std::string out_;
};

void json(const ConfigNode& n, bool hashed_only, std::string& out) {
  switch (n.kind) {
    case Kind::kNull:
      out += "null";
      return;
    case Kind::kScalar:
      if (n.type == ScalarType::kText) {
        out += quoted_text(n.text);
      } else if (n.text.ends_with(".inf") || n.text.ends_with(".nan")) {
        out += quoted_text((n.text[0] == '-' ? "-" : "") + n.text.substr(n.text.size() - 3));
      } else {
        out += n.text;
      }
      return;
    case Kind::kList:
      for (std::size_t i = 0; i < n.items.size(); ++i) {
        out += i == 0 ? "[" : ",";
        json(n.items[i], hashed_only, out);
      }
      out += n.items.empty() ? "[]" : "]";
      return;
    case Kind::kMap: {
      out += "{";
      bool first = true;
      for (std::size_t i = 0; i < n.items.size(); ++i) {
        if (!hashed_only || n.keys[i].hashed) {
          out += (first ? "" : ",") + quoted_text(n.keys[i].text) + ":";
          json(n.items[i], hashed_only, out);
          first = false;
        }
      }
      out += "}";
    }
  }
}

class Lister final : public FieldVisitor {
 public:
  explicit Lister(int depth) : depth_(depth) {}
  std::vector<FieldDoc> take() { return std::move(docs_); }

 protected:
  void field(std::string_view name, ValueRef value, const FieldOptions& o) override {
    FieldDoc doc;
    doc.name = name;
    doc.type = type_text(*value.ops);
    doc.help = o.help;
    doc.required = o.required;
    doc.range = range_text(o);
    if (const std::vector<std::string> choices = choices_of(*value.ops, o); !choices.empty()) {
      doc.range += (doc.range.empty() ? "one of " : "; one of ") + joined(choices);
    }
    const ValueOps* inner = value.ops;
    while (inner->inner != nullptr) {
      inner = inner->inner;
    }
    if (inner == value.ops && inner->kind == ValueKind::kSection) {
      Lister lister(depth_ + 1);
      inner->visit(value.at, lister);
      doc.children = lister.take();
    } else if (inner->kind == ValueKind::kSection && depth_ < kMaxDepth) {
      std::pair<const ValueOps*, Lister> context{inner, Lister(depth_ + 1)};
      inner->with_default(
          [](void* c, void* fresh) {
            auto& [ops, lister] = *static_cast<decltype(context)*>(c);
            ops->visit(fresh, lister);
          },
          &context);
      doc.children = context.second.take();
    }
    if (!o.required && value.ops->kind != ValueKind::kSection) {
      const ConfigNode node = Writer::write(value, o);
      doc.default_value = Printer({}).in_one_line(node);
    }
    docs_.push_back(std::move(doc));
  }

 private:
  static constexpr int kMaxDepth = 4;  // lists of sections may nest in themselves

  int depth_;
  std::vector<FieldDoc> docs_;
};

void format(const std::vector<FieldDoc>& fields, std::size_t indent, std::string& out) {
  for (const FieldDoc& f : fields) {
    out += fmt::format("{:{}}{}: {}", "", indent, f.name, f.type);
    if (f.required) {
      out += ", required";
    } else if (!f.default_value.empty()) {
      out += ", default " + f.default_value;
    }
    out +=
        (f.range.empty() ? "" : ", " + f.range) + (f.help.empty() ? "" : "  -- " + f.help) + "\n";
    format(f.children, indent + 2, out);
  }
}

}  // namespace

std::string number_text(double x) {
  if (std::isnan(x)) {
    return ".nan";
  }
  if (std::isinf(x)) {
    return x < 0 ? "-.inf" : ".inf";
  }
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, x).ptr;
  return {buffer, end};
}

std::string range_text(const FieldOptions& o) {
  std::string out;
  const auto add = [&](const std::optional<double>& bound, const char* sign) {
    if (bound) {
      out += (out.empty() ? "" : " and ") + std::string(sign) + " " + number_text(*bound);
    }
  };
  add(o.min, ">=");
  add(o.above, ">");
  add(o.max, "<=");
  add(o.below, "<");
  return out;
}

std::string joined(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& n : names) {
    out += (out.empty() ? "" : ", ") + n;
  }
  return out;
}

std::vector<std::string> choices_of(const ValueOps& ops, const FieldOptions& options) {
  if (ops.inner != nullptr) {
    return choices_of(*ops.inner, options);
  }
  return ops.kind == ValueKind::kEnum ? std::vector<std::string>(ops.names.begin(), ops.names.end())
                                      : options.choices;
}

std::string type_text(const ValueOps& ops) {
  switch (ops.kind) {
    case ValueKind::kBool:
      return "true or false";
    case ValueKind::kInt32:
    case ValueKind::kInt64:
      return "integer";
    case ValueKind::kFloat:
      return "number";
    case ValueKind::kText:
    case ValueKind::kEnum:
      return "text";
    case ValueKind::kOptional:
      return type_text(*ops.inner) + " or null";
    case ValueKind::kList:
      return "list of " + type_text(*ops.inner);
    case ValueKind::kMap:
      return "map of " + type_text(*ops.inner);
    case ValueKind::kSection:
      return "section";
    case ValueKind::kComponent: {
      std::pair<const ValueOps*, std::string> context{&ops, ""};
      ops.with_default(
          [](void* c, void* fresh) {
            auto& [ops, kind] = *static_cast<decltype(context)*>(c);
            kind = ops->component(fresh).catalog().kind();
          },
          &context);
      return context.second;
    }
  }
  return "";
}

ConfigNode config_to_tree(ValueRef config) {
  return Writer::write(config, {});
}

namespace detail {

std::string dump_yaml(ValueRef config, const DumpOptions& options) {
  return Printer(options).run(config_to_tree(config));
}

std::string dump_json(ValueRef config) {
  std::string out;
  json(config_to_tree(config), false, out);
  return out;
}

std::string config_hash(ValueRef config) {
  std::string text;
  json(config_to_tree(config), true, text);
  std::uint64_t h = 0xcbf29ce484222325u;  // FNV-1a, 64 bits
  for (const char c : text) {
    h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  }
  return fmt::format("{:016x}", h);
}

void validate_config(ValueRef config, ValueRef scratch) {
  ConfigNode tree = config_to_tree(config);
  set_places(tree, Place{});
  read_node(tree, scratch);
}

std::vector<FieldDoc> describe_config(ValueRef config) {
  Lister lister(0);
  config.ops->visit(config.at, lister);
  return lister.take();
}

}  // namespace detail

std::vector<FieldDoc> describe_component(const ComponentCatalog& catalog, std::string_view name) {
  const std::unique_ptr<ComponentConfig> config = catalog.new_config(name);
  Lister lister(0);
  config->visit(lister);
  return lister.take();
}

std::string format_fields(const std::vector<FieldDoc>& fields) {
  std::string out;
  format(fields, 0, out);
  return out;
}

}  // namespace ls
