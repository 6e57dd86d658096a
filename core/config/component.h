#pragma once
// Parts chosen by name (mixers, tasks, optimizers, schedules): each registers itself from its own
// source together with its Config, so that a new one needs no edit elsewhere.
//
//   // mixer.h: the interface says what its makers are given and where they register.
//   class TokenMixer {
//    public:
//     using Registry = ComponentRegistry<TokenMixer, const MixerArgs&>;
//     static Registry& registry();  // in mixer.cpp: static Registry r("mixer"); return r;
//     ...
//   };
//   // gla.cpp
//   class Gla final : public TokenMixer {
//    public:
//     struct Config { Index heads = 4; template <class F> void fields(F& f) { ... } };
//     Gla(const Config& config, const MixerArgs& args);
//   };
//   LS_REGISTER(TokenMixer, Gla, "gla", "gated linear attention");
//
//   // A user's Config: `mixer: gla` or `mixer: {name: gla, heads: 2}` in YAML.
//   Component<TokenMixer> mixer{"gla"};       // or Component<TokenMixer> mixer; with no default
//   f("mixer", mixer, {.help = "token mixer"});
//   std::unique_ptr<TokenMixer> m = config.mixer.make(args);
#include <memory>
#include <source_location>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/registry.h"
#include "core/config/fields.h"

namespace ls {

/// The settings of one component, of erased type.
class ComponentConfig : public SectionValue {
 public:
  virtual std::unique_ptr<ComponentConfig> clone() const = 0;
};

/// A registry seen without its products: what can be named, and with which settings.
class ComponentCatalog {
 public:
  virtual ~ComponentCatalog() = default;
  /// "mixer", "task", ...
  virtual const std::string& kind() const = 0;
  /// Sorted.
  virtual std::vector<std::string> names() const = 0;
  /// One line. @throws Error(Config) on an unknown name, with the nearest.
  virtual const std::string& help(std::string_view name) const = 0;
  /// Default settings. @throws as help
  virtual std::unique_ptr<ComponentConfig> new_config(std::string_view name) const = 0;
};

/// A chosen name with its settings. Copies are deep.
class AnyComponent {
 public:
  virtual ~AnyComponent() = default;
  AnyComponent(const AnyComponent& other) { *this = other; }
  AnyComponent& operator=(const AnyComponent& other) {
    if (this != &other) {
      name_ = other.name_;
      config_ = other.config_ ? other.config_->clone() : nullptr;
    }
    return *this;
  }
  AnyComponent(AnyComponent&&) noexcept = default;
  AnyComponent& operator=(AnyComponent&&) noexcept = default;

  virtual const ComponentCatalog& catalog() const = 0;
  /// "" while none has been chosen.
  const std::string& name() const { return name_; }
  bool chosen() const { return config_ != nullptr; }
  /// Chooses `name` with its default settings. @throws Error(Config) if it is not registered
  void choose(std::string_view name) {
    config_ = catalog().new_config(name);
    name_ = name;
  }
  /// @throws Error(Config) while none has been chosen
  ComponentConfig& config() const {
    LS_CHECK(config_ != nullptr, kConfig, "no {} is chosen", catalog().kind());
    return *config_;
  }

 protected:
  AnyComponent() = default;

 private:
  std::string name_;
  std::unique_ptr<ComponentConfig> config_;
};

/// A field that holds one of the components in Product::registry().
template <class Product>
class Component final : public AnyComponent {
 public:
  Component() = default;
  Component(std::string_view name) { choose(name); }  // NOLINT: a name stands for the component
  Component(const char* name) : Component(std::string_view(name)) {}  // NOLINT
  const ComponentCatalog& catalog() const override { return Product::registry(); }
  /// @throws Error(Config) while none has been chosen, and what the maker throws
  template <class... Args>
  std::unique_ptr<Product> make(Args&&... args) const {
    using Maker = typename Product::Registry::Maker;
    return static_cast<const Maker&>(config()).make(std::forward<Args>(args)...);
  }
};

/// Products by name; each is made of its own Config and Args.
template <class Product, class... Args>
class ComponentRegistry : public ComponentCatalog {
 public:
  /// The settings of one component, and what is made of them.
  class Maker : public ComponentConfig {
   public:
    virtual std::unique_ptr<Product> make(Args... args) const = 0;
  };

  explicit ComponentRegistry(std::string kind) : items_(std::move(kind)) {}

  /// T(const T::Config&, Args...); T::Config may be NoConfig.
  template <class T>
  bool add(std::string name, std::string help,
           std::source_location where = std::source_location::current()) {
    return items_.add(std::move(name), Entry{std::move(help), &new_maker<T>}, where);
  }

  const std::string& kind() const override { return items_.kind(); }
  std::vector<std::string> names() const override { return items_.names(); }
  const std::string& help(std::string_view name) const override { return items_.at(name).help; }
  std::unique_ptr<ComponentConfig> new_config(std::string_view name) const override {
    return items_.at(name).new_maker();
  }

 private:
  template <class T>
  class MakerOf final : public Maker {
   public:
    std::unique_ptr<ComponentConfig> clone() const override {
      return std::make_unique<MakerOf>(*this);
    }
    void visit(FieldVisitor& f) override { config_.fields(f); }
    std::unique_ptr<Product> make(Args... args) const override {
      return std::make_unique<T>(config_, static_cast<Args>(args)...);
    }

   private:
    typename T::Config config_;
  };
  template <class T>
  static std::unique_ptr<ComponentConfig> new_maker() {
    return std::make_unique<MakerOf<T>>();
  }
  struct Entry {
    std::string help;
    std::unique_ptr<ComponentConfig> (*new_maker)();
  };
  Registry<Entry> items_;
};

}  // namespace ls

/// At namespace scope of the component's own source: LS_REGISTER(TokenMixer, Gla, "gla", "help").
#define LS_REGISTER(Interface, Type, name, help)            \
  [[maybe_unused]] static const bool ls_registered_##Type = \
      Interface::registry().add<Type>(name, help)
