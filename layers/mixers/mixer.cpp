#include "layers/mixers/mixer.h"

#include <algorithm>

namespace ls::layers {
namespace {

/// Goes through the settings of a mixer and those of mixers among them.
class Kinds final : public FieldVisitor {
 public:
  Kinds(std::string kind, std::set<std::string>& found) : kind_(std::move(kind)), found_(found) {
    found_.insert(kind_);
  }

 private:
  void field(std::string_view name, const Value& value, const FieldOptions&) override {
    if (auto* const part = value.as<AnyComponent>()) {
      if (part->chosen() && &part->catalog() == &TokenMixer::registry()) {
        Kinds within(kind_ + "." + std::string(name) + "." + part->name(), found_);
        part->config().visit(within);
      }
    } else if (auto* const section = value.as<SectionValue>()) {
      section->visit(*this);
    } else if (auto* const items = value.as<ItemsValue>()) {
      for (std::size_t i = 0; i < items->size(); ++i) {
        field(name, items->at(i), {});
      }
    }
  }
  std::string kind_;
  std::set<std::string>& found_;
};

}  // namespace

TokenMixer::Registry& TokenMixer::registry() {
  static auto* const registry = new Registry("mixer");
  return *registry;
}

std::set<std::string> kinds_of(const Component<TokenMixer>& mixer) {
  std::set<std::string> found;
  Kinds kinds(mixer.name(), found);
  mixer.config().visit(kinds);
  return found;
}

void MixerArgs::set_kind(std::string name) {
  kind = std::move(name);
  if (blocks) {
    const auto has = [this](const std::set<std::string>& block) { return block.contains(kind); };
    const auto here = blocks->begin() + layer;
    of_kind = std::count_if(blocks->begin(), here, has);
    kinds = of_kind + std::count_if(here, blocks->end(), has);
  }
}

MixerArgs MixerArgs::within(const std::string& field, const Component<TokenMixer>& mixer,
                            const std::string& name) const {
  MixerArgs args = *this;
  args.scope = scope.child(name);
  args.set_kind(kind + "." + field + "." + mixer.name());
  return args;
}

}  // namespace ls::layers
