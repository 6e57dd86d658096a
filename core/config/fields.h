#pragma once
// Fields of a Config: one list of name, variable and options, from which everything else comes
// (reading YAML, errors, overrides, the resolved dump, listings, hashes). See component.h for parts
// chosen by name and yaml.h for reading and writing.
//
//   struct Gla::Config {                      // plain struct, default values in place
//     Index heads = 4;
//     double dropout = 0;
//     Gate gate = Gate::kSwish;               // a closed choice, base/enum_names.h
//     std::optional<Index> window;            // null when not set
//     std::vector<Index> widths = {64, 64};   // ranges hold for each element
//     RopeConfig rope;                        // a struct with fields: a nested section; with
//                                             // a member set_word(), see SectionValue, a word may
//                                             // stand for it
//     std::vector<HeadConfig> extra;          // list of sections
//     Component<ChannelMixer> channel{"swiglu"};  // part chosen by name, see component.h
//
//     template <class F>
//     void fields(F& f) {
//       f("heads", heads, {.help = "heads", .min = 1});
//       f("dropout", dropout, {.help = "share of units dropped", .min = 0, .below = 1});
//       f("gate", gate, {.help = "output gate"});
//       f("window", window, {.help = "tokens seen, all when null", .min = 1});
//       f("widths", widths, {.help = "layer widths", .min = 1, .min_size = 1});
//       f("rope", rope, {.help = "rotary positions"});
//       f("extra", extra, {.help = "further heads"});
//       f("channel", channel, {.help = "channel mixer"});
//       // Options may depend on fields listed earlier:
//       f("path", path, {.help = "corpus", .required = source == Source::kFile});
//       // Conditions over several fields, looked at once all is read; reported at the field named.
//       f.check(!window || *window <= 65536 / heads, "window", "must be at most 65536 / heads");
//     }
//   };
//
//   RunConfig config;
//   read_config(ConfigTree::from_file("run.yaml", {"models.0.mixer.heads=2"}), config);  // yaml.h
//
// Values: bool, Index, double, std::string, an enum with EnumNames, sections and components, and
// std::optional and std::vector of values. Reserved names: "extend" in every section, "name" in
// every component, "repeat" in every element of a list.
#include <algorithm>
#include <concepts>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "core/base/enum_names.h"
#include "core/base/types.h"

namespace ls {

class FieldVisitor;
class AnyComponent;
struct Value;

/// Some values of an enum, as a field allows them: {Gate::kSwish, Gate::kNone}.
struct EnumSubset {
  EnumSubset() = default;
  template <NamedEnum E>
  EnumSubset(std::initializer_list<E> values) {  // NOLINT: a list of values stands for it
    std::transform(values.begin(), values.end(), std::back_inserter(names), enum_name<E>);
  }
  std::vector<std::string_view> names;
};

/// What a field allows and means. Ranges hold for each element of a list.
struct FieldOptions {
  std::string_view help = {};
  std::optional<double> min = {}, max = {};      ///< inclusive
  std::optional<double> above = {}, below = {};  ///< exclusive
  std::string_view null_word = {};               ///< of an optional: may be written for null
  EnumSubset allowed = {};                       ///< of an enum; all its values when empty
  bool required = false;                         ///< must be written, has no default
  std::size_t min_size = 0;                      ///< elements of a list, bytes of a text
  bool hashed = true;  ///< false: leaves config_hash alone (paths, verbosity)
  bool file = false;   ///< a text that names a file or folder, from the working directory
};

template <class T>
concept HasFields = requires(T& t, FieldVisitor& f) {
  t.fields(f);
};

/// Names no field of its own; for components without settings.
struct NoConfig {
  template <class F>
  void fields(F&) {}
};

/// A closed choice, of erased type.
class EnumValue {
 public:
  virtual ~EnumValue() = default;
  virtual std::span<const std::string_view> names() const = 0;
  virtual std::string_view get() const = 0;
  virtual void set(std::string_view name) = 0;
};

/// A struct with fields.
class SectionValue {
 public:
  virtual ~SectionValue() = default;
  virtual void visit(FieldVisitor& f) = 0;
  /// Sets all of it to what a word stands for and gives "", or says what is wrong with the word;
  /// nullopt where none may stand for the section.
  virtual std::optional<std::string> set_word(std::string_view /*word*/) { return std::nullopt; }
};

/// A list, or an optional as a list of at most one element.
class ItemsValue {
 public:
  virtual ~ItemsValue() = default;
  virtual bool optional() const = 0;
  virtual std::size_t size() const = 0;
  virtual void resize(std::size_t n) = 0;
  virtual Value at(std::size_t i) = 0;
  /// An element as it is when new; it lives as long as this, or until the next call.
  virtual Value fresh() = 0;
};

/// The address of a field's variable, with what a visitor must know of its type.
struct Value {
  std::variant<bool*, Index*, double*, std::string*, AnyComponent*, std::unique_ptr<EnumValue>,
               std::unique_ptr<SectionValue>, std::unique_ptr<ItemsValue>>
      of;
  /// Null if it is of another type.
  template <class T>
  T* as() const {
    if constexpr (std::is_abstract_v<T> && !std::is_same_v<T, AnyComponent>) {
      const auto* p = std::get_if<std::unique_ptr<T>>(&of);
      return p != nullptr ? p->get() : nullptr;
    } else {
      T* const* p = std::get_if<T*>(&of);
      return p != nullptr ? *p : nullptr;
    }
  }
};

template <class T>
Value value_of(T& value);

namespace detail {
template <class E>
class EnumOf final : public EnumValue {
 public:
  explicit EnumOf(E& value) : value_(value) {}
  std::span<const std::string_view> names() const override { return EnumNames<E>::kNames; }
  std::string_view get() const override { return enum_name(value_); }
  void set(std::string_view name) override { value_ = parse_enum<E>(name); }

 private:
  E& value_;
};

template <class C>
class SectionOf final : public SectionValue {
 public:
  explicit SectionOf(C& config) : config_(config) {}
  void visit(FieldVisitor& f) override { config_.fields(f); }
  std::optional<std::string> set_word(std::string_view word) override {
    if constexpr (requires { config_.set_word(word); }) {
      return config_.set_word(word);
    }
    return std::nullopt;
  }

 private:
  C& config_;
};

template <class List>
class ItemsOf final : public ItemsValue {
 public:
  static constexpr bool kOptional = requires(List & l) { l.has_value(); };
  explicit ItemsOf(List& items) : items_(items) {}
  bool optional() const override { return kOptional; }
  std::size_t size() const override {
    if constexpr (kOptional) {
      return items_.has_value() ? 1 : 0;
    } else {
      return items_.size();
    }
  }
  void resize(std::size_t n) override {
    if constexpr (kOptional) {
      n == 0 ? items_.reset() : static_cast<void>(items_.emplace());
    } else {
      items_.resize(n);
    }
  }
  Value at(std::size_t i) override {
    if constexpr (kOptional) {
      return value_of(*items_);
    } else {
      return value_of(items_[i]);
    }
  }
  Value fresh() override { return value_of(fresh_.emplace()); }

 private:
  List& items_;
  std::optional<typename List::value_type> fresh_;
};
}  // namespace detail

template <class T>
Value value_of(T& value) {
  if constexpr (std::is_same_v<T, bool> || std::is_same_v<T, Index> || std::is_same_v<T, double> ||
                std::is_same_v<T, std::string>) {
    return {&value};
  } else if constexpr (std::is_base_of_v<AnyComponent, T>) {
    return {static_cast<AnyComponent*>(&value)};
  } else if constexpr (NamedEnum<T>) {
    return {std::make_unique<detail::EnumOf<T>>(value)};
  } else if constexpr (HasFields<T>) {
    return {std::make_unique<detail::SectionOf<T>>(value)};
  } else {
    static_assert(
        requires { typename T::value_type; },
        "a field is bool, Index, double, std::string, an enum with EnumNames, a struct "
        "with fields(), a Component, or an optional or vector of those");
    return {std::make_unique<detail::ItemsOf<T>>(value)};
  }
}

/// What `fields` is called with; every use of the list (reading, dumping, ...) is one of these.
class FieldVisitor {
 public:
  virtual ~FieldVisitor() = default;

  template <class T>
  void operator()(std::string_view name, T& value, const FieldOptions& options = {}) {
    field(name, value_of(value), options);
  }
  /// `ok` is a condition on fields listed earlier; `message` says what must hold, e.g.
  /// "must divide the width". It is reported at `field` once all has been read.
  void check(bool ok, std::string_view field, std::string_view message) {
    if (!ok) {
      failed(field, message);
    }
  }

 protected:
  virtual void field(std::string_view name, const Value& value, const FieldOptions& options) = 0;
  virtual void failed(std::string_view /*field*/, std::string_view /*message*/) {}
};

}  // namespace ls
