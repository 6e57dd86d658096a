#pragma once
// Fields of a Config: one list of name, variable and options, from which everything else comes
// (reading YAML, errors, overrides, the resolved dump, listings, hashes). See component.h for parts
// chosen by name and yaml.h for reading and writing.
//
//   struct Gla::Config {                      // plain struct, default values in place
//     Index heads = 4;
//     double dropout = 0;
//     std::string gate = "swish";             // text out of a closed set
//     Init init = Init::kNormal;              // or an enum with EnumNames, base/enum_names.h
//     std::optional<Index> window;            // null when not set
//     std::vector<Index> widths = {64, 64};   // options hold for each element
//     std::map<std::string, double> scales;   // free keys
//     RopeConfig rope;                        // a struct with fields: a nested section
//     std::vector<HeadConfig> extra;          // list of sections
//     Component<ChannelMixer> channel{"swiglu"};  // part chosen by name, see component.h
//
//     template <class F>
//     void fields(F& f) {
//       f("heads", heads, {.help = "heads", .min = 1});
//       f("dropout", dropout, {.help = "share of units dropped", .min = 0, .below = 1});
//       f("gate", gate, {.help = "output gate", .choices = {"swish", "sigmoid"}});
//       f("init", init, {.help = "first weights"});
//       f("window", window, {.help = "tokens seen, all when null", .min = 1});
//       f("widths", widths, {.help = "layer widths", .min = 1, .min_size = 1});
//       f("scales", scales, {.help = "learning-rate factor by parameter group", .above = 0});
//       f.section("rope", rope, {.help = "rotary positions"});
//       f("extra", extra, {.help = "further heads"});
//       f("channel", channel, {.help = "channel mixer"});
//       // Options may depend on fields listed earlier, which have been read by then:
//       f("path", path, {.help = "corpus", .required = source == "file"});
//       // Conditions over several fields; reported at the field named, when reading.
//       f.check(!window || *window <= 65536 / heads, "window", "must be at most 65536 / heads");
//     }
//   };
//
//   auto config = read_config_file<RunConfig>("run.yaml", {"models.0.mixer.heads=2"});  // yaml.h
//
// Values: bool, int, Index, double, std::string, an enum, and std::optional, std::vector and
// std::map<std::string, .> of values; sections and components. "extend" is taken in every section,
// "name" in every component.
#include <concepts>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/base/enum_names.h"
#include "core/base/types.h"

namespace ls {

class FieldVisitor;
class AnyComponent;

/// What a field allows and means. Ranges and choices hold for each element of a list or map.
struct FieldOptions {
  std::string_view help = {};
  std::optional<double> min = {}, max = {};      ///< inclusive
  std::optional<double> above = {}, below = {};  ///< exclusive
  std::vector<std::string> choices = {};         ///< for text; an enum has its own
  bool required = false;                         ///< must be written, has no default
  /// The list may also be an expression such as [a, b] * 3 or "[a * 2, b]", see parse_pattern, and
  /// lists inside it are joined to one. For lists of text and lists of components.
  bool pattern = false;
  Index min_size = 0;                  ///< elements of a list or map, bytes of a text
  std::optional<Index> max_size = {};  ///< the same
  bool allow_inf = false;              ///< NaN is never allowed
  bool hashed = true;                  ///< false: leaves config_hash alone (paths, verbosity)
};

enum class ValueKind : std::uint8_t {
  kBool,
  kInt32,
  kInt64,
  kFloat,
  kText,
  kEnum,
  kOptional,
  kList,
  kMap,
  kSection,
  kComponent
};

/// Access to a value of erased type; entries that its kind does not need are null.
struct ValueOps {
  ValueKind kind;
  Index (*get_enum)(const void*);
  void (*set_enum)(void*, Index);
  std::span<const std::string_view> names;        ///< of an enum's values
  const ValueOps* inner;                          ///< element of an optional, list or map
  Index (*size)(const void*);                     ///< optional (0 or 1), list, map
  void (*resize)(void*, Index);                   ///< optional, list, map (to 0 only)
  void* (*element)(void*, Index);                 ///< optional, list, map (in key order)
  const std::string& (*key)(const void*, Index);  ///< map
  void* (*insert)(void*, const std::string&);     ///< map
  void (*visit)(void*, FieldVisitor&);            ///< section
  AnyComponent& (*component)(void*);              ///< component
  /// Calls use(context, address of a new default value).
  void (*with_default)(void (*use)(void*, void*), void* context);
};

struct ValueRef {
  void* at;
  const ValueOps* ops;
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

namespace detail {
template <class T>
struct ValueTraits;
}
template <class T>
ValueRef value_ref(T& value) {
  return {&value, &detail::ValueTraits<T>::kOps};
}

/// What `fields` is called with; every use of the list (reading, dumping, ...) is one of these.
class FieldVisitor {
 public:
  virtual ~FieldVisitor() = default;

  template <class T>
  void operator()(std::string_view name, T& value, const FieldOptions& options = {}) {
    field(name, value_ref(value), options);
  }
  template <HasFields C>
  void section(std::string_view name, C& config, const FieldOptions& options = {}) {
    field(name, value_ref(config), options);
  }
  /// `ok` is a condition on fields listed earlier; `message` says what must hold, e.g.
  /// "must divide the width". A reader reports it at `field`, other visitors pass over it.
  void check(bool ok, std::string_view field, std::string_view message) {
    if (!ok) {
      failed(field, message);
    }
  }

 protected:
  virtual void field(std::string_view name, ValueRef value, const FieldOptions& options) = 0;
  virtual void failed(std::string_view /*field*/, std::string_view /*message*/) {}
};

/// Expands an expression over names: a name; name * n; [a, b, ...]; lists nest and may be repeated,
/// [[a, b] * 2, c] is a, b, a, b, c. At most 100,000 names.
/// @throws Error(Config) quoting the expression and the column of the fault
std::vector<std::string> parse_pattern(std::string_view expression);

namespace detail {
template <class T>
void with_default(void (*use)(void*, void*), void* context) {
  T value{};
  use(context, &value);
}

template <class T>
constexpr ValueKind plain_kind() {
  if constexpr (std::is_same_v<T, bool>) {
    return ValueKind::kBool;
  } else if constexpr (std::is_same_v<T, int>) {
    return ValueKind::kInt32;
  } else if constexpr (std::is_same_v<T, Index>) {
    return ValueKind::kInt64;
  } else if constexpr (std::is_same_v<T, double>) {
    return ValueKind::kFloat;
  } else {
    static_assert(
        std::is_same_v<T, std::string>,
        "a field is bool, int, Index, double, text, an enum with EnumNames, an optional, vector or "
        "string map of those, a struct with fields(), or a Component");
    return ValueKind::kText;
  }
}

template <class T>
struct ValueTraits {
  static constexpr ValueOps ops() {
    ValueOps o{};
    o.with_default = &with_default<T>;
    if constexpr (NamedEnum<T>) {
      o.kind = ValueKind::kEnum;
      o.names = EnumNames<T>::kNames;
      o.get_enum = [](const void* p) { return static_cast<Index>(*static_cast<const T*>(p)); };
      o.set_enum = [](void* p, Index i) { *static_cast<T*>(p) = static_cast<T>(i); };
    } else if constexpr (std::is_base_of_v<AnyComponent, T>) {
      o.kind = ValueKind::kComponent;
      o.component = [](void* p) -> AnyComponent& { return *static_cast<T*>(p); };
    } else if constexpr (HasFields<T>) {
      o.kind = ValueKind::kSection;
      o.visit = [](void* p, FieldVisitor& f) { static_cast<T*>(p)->fields(f); };
    } else {
      o.kind = plain_kind<T>();
    }
    return o;
  }
  static constexpr ValueOps kOps = ops();
};

template <class T>
struct ValueTraits<std::optional<T>> {
  using Opt = std::optional<T>;
  static constexpr ValueOps ops() {
    ValueOps o{};
    o.kind = ValueKind::kOptional;
    o.with_default = &with_default<Opt>;
    o.inner = &ValueTraits<T>::kOps;
    o.size = [](const void* p) { return static_cast<const Opt*>(p)->has_value() ? Index{1} : 0; };
    o.resize = [](void* p, Index n) {
      n == 0 ? static_cast<Opt*>(p)->reset() : static_cast<void>(static_cast<Opt*>(p)->emplace());
    };
    o.element = [](void* p, Index) -> void* { return &**static_cast<Opt*>(p); };
    return o;
  }
  static constexpr ValueOps kOps = ops();
};

template <class T>
struct ValueTraits<std::vector<T>> {
  static_assert(!std::is_same_v<T, bool>, "use std::vector<Index> or text, not std::vector<bool>");
  using Vec = std::vector<T>;
  static constexpr ValueOps ops() {
    ValueOps o{};
    o.kind = ValueKind::kList;
    o.with_default = &with_default<Vec>;
    o.inner = &ValueTraits<T>::kOps;
    o.size = [](const void* p) { return static_cast<Index>(static_cast<const Vec*>(p)->size()); };
    o.resize = [](void* p, Index n) { static_cast<Vec*>(p)->resize(static_cast<std::size_t>(n)); };
    o.element = [](void* p, Index i) -> void* {
      return &(*static_cast<Vec*>(p))[static_cast<std::size_t>(i)];
    };
    return o;
  }
  static constexpr ValueOps kOps = ops();
};

template <class T>
struct ValueTraits<std::map<std::string, T>> {
  using Map = std::map<std::string, T>;
  static constexpr ValueOps ops() {
    ValueOps o{};
    o.kind = ValueKind::kMap;
    o.with_default = &with_default<Map>;
    o.inner = &ValueTraits<T>::kOps;
    o.size = [](const void* p) { return static_cast<Index>(static_cast<const Map*>(p)->size()); };
    o.resize = [](void* p, Index) { static_cast<Map*>(p)->clear(); };
    o.element = [](void* p, Index i) -> void* {
      return &std::next(static_cast<Map*>(p)->begin(), i)->second;
    };
    o.key = [](const void* p, Index i) -> const std::string& {
      return std::next(static_cast<const Map*>(p)->begin(), i)->first;
    };
    o.insert = [](void* p, const std::string& key) -> void* {
      return &(*static_cast<Map*>(p))[key];
    };
    return o;
  }
  static constexpr ValueOps kOps = ops();
};
}  // namespace detail
}  // namespace ls
