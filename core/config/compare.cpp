#include "core/config/compare.h"

#include <algorithm>
#include <filesystem>

#include "core/config/component.h"
#include "core/config/node.h"

namespace ls {
namespace {

struct Leaf {
  std::string path, text;
  bool component = false;  // the text is its name, its settings follow below the path
};

/// The hashed values of a Config, one after the other.
class Leaves final : public FieldVisitor {
 public:
  static std::vector<Leaf> of(SectionValue& config) {
    Leaves leaves;
    config.visit(leaves);
    return std::move(leaves.out_);
  }

 protected:
  void field(std::string_view name, const Value& value, const FieldOptions& o) override {
    if (o.hashed) {
      add(path_.empty() ? std::string(name) : path_ + "." + std::string(name), value);
    }
  }

 private:
  static bool plain(const Value& value) {
    return value.as<AnyComponent>() == nullptr && value.as<SectionValue>() == nullptr &&
           value.as<ItemsValue>() == nullptr;
  }
  static std::string text(const Value& value) {
    if (const auto* x = value.as<bool>()) {
      return *x ? "true" : "false";
    }
    if (const auto* x = value.as<Index>()) {
      return std::to_string(*x);
    }
    if (const auto* x = value.as<double>()) {
      return number_text(*x);
    }
    if (const auto* x = value.as<std::string>()) {
      return "'" + *x + "'";
    }
    auto* choice = value.as<EnumValue>();
    return std::string(choice->get());
  }
  void below(const std::string& path, SectionValue& section) {
    const std::string outer = std::exchange(path_, path);
    section.visit(*this);
    path_ = outer;
  }
  void add(const std::string& path, const Value& value) {
    if (auto* component = value.as<AnyComponent>()) {
      out_.push_back({path, component->chosen() ? component->name() : "null", true});
      if (component->chosen()) {
        below(path, component->config());
      }
    } else if (auto* section = value.as<SectionValue>()) {
      below(path, *section);
    } else if (auto* items = value.as<ItemsValue>()) {
      add_items(path, *items);
    } else {
      out_.push_back({path, text(value)});
    }
  }
  void add_items(const std::string& path, ItemsValue& items) {
    if (items.optional()) {
      return items.size() > 0 ? add(path, items.at(0)) : out_.push_back({path, "null"});
    }
    if (!plain(items.fresh())) {
      for (std::size_t i = 0; i < items.size(); ++i) {
        add(path + "." + std::to_string(i), items.at(i));
      }
      return;
    }
    std::vector<std::string> texts;
    for (std::size_t i = 0; i < items.size(); ++i) {
      texts.push_back(text(items.at(i)));
    }
    out_.push_back({path, "[" + joined(texts) + "]"});
  }

  std::string path_;
  std::vector<Leaf> out_;
};

class PathResolver final : public FieldVisitor {
 public:
  explicit PathResolver(const std::string& directory) : directory_(directory) {}

 protected:
  void field(std::string_view, const Value& value, const FieldOptions& o) override {
    resolve(value, o.file);
  }

 private:
  void resolve(const Value& value, bool file) {
    if (auto* text = value.as<std::string>(); text != nullptr && file && !text->empty()) {
      *text = (std::filesystem::path(directory_) / *text).lexically_normal().string();
    } else if (auto* section = value.as<SectionValue>()) {
      section->visit(*this);
    } else if (auto* component = value.as<AnyComponent>()) {
      if (component->chosen()) {
        component->config().visit(*this);
      }
    } else if (auto* items = value.as<ItemsValue>()) {
      for (std::size_t i = 0; i < items->size(); ++i) {
        resolve(items->at(i), file);
      }
    }
  }
  std::string directory_;
};

}  // namespace

std::string changes_text(const std::vector<FieldChange>& changes) {
  const auto shown = [](const std::string& text) { return text.empty() ? "nothing" : text; };
  std::vector<std::string> parts;
  for (const FieldChange& c : changes) {
    parts.push_back(fmt::format("{}: {} -> {}", c.path, shown(c.before), shown(c.after)));
  }
  return joined(parts);
}

namespace detail {

std::vector<FieldChange> changed_fields(SectionValue& before, SectionValue& after) {
  const std::vector<Leaf> a = Leaves::of(before), b = Leaves::of(after);
  const auto find = [](const std::vector<Leaf>& in, const std::string& path) {
    const auto it = std::ranges::find(in, path, &Leaf::path);
    return it == in.end() ? nullptr : &*it;
  };
  std::vector<FieldChange> out;
  std::vector<std::string> skipped;  // paths of components with another name
  const auto add = [&](const Leaf& leaf, const Leaf* x, const Leaf* y) {
    const bool inside = std::ranges::any_of(
        skipped, [&](const std::string& path) { return leaf.path.starts_with(path + "."); });
    if (inside || (x != nullptr && y != nullptr && x->text == y->text)) {
      return;
    }
    out.push_back({leaf.path, x != nullptr ? x->text : "", y != nullptr ? y->text : ""});
    if (leaf.component) {
      skipped.push_back(leaf.path);
    }
  };
  for (const Leaf& leaf : a) {
    add(leaf, &leaf, find(b, leaf.path));
  }
  for (const Leaf& leaf : b) {
    if (find(a, leaf.path) == nullptr) {
      add(leaf, nullptr, &leaf);
    }
  }
  return out;
}

void make_paths_absolute(SectionValue& config, const std::string& directory) {
  PathResolver resolver(directory);
  config.visit(resolver);
}

}  // namespace detail
}  // namespace ls
