// The settings in which every mixer is checked.
#include <algorithm>
#include <optional>

#include "core/config/yaml.h"
#include "tests/support/mixer_laws.h"

namespace ls::test {
namespace {

using layers::ModelConfig;
using layers::TokenMixer;

/// Sets fields by name: of whole numbers, also optional ones.
class SetWhole final : public FieldVisitor {
 public:
  SetWhole(std::string_view name, Index value) : name_(name), value_(value) {}
  bool found = false;

 private:
  void field(std::string_view name, const Value& v, const FieldOptions&) override {
    if (name != name_) {
      return;
    }
    found = true;
    auto* items = v.as<ItemsValue>();
    const bool optional = items != nullptr && items->optional();
    if (optional) {
      items->resize(1);
    }
    const Value inner = optional ? items->at(0) : Value{};
    for (auto* whole : {v.as<Index>(), inner.as<Index>()}) {
      if (whole != nullptr) {
        *whole = value_;
      }
    }
  }
  std::string_view name_;
  Index value_;
};

/// Collects "field: value" for every switch turned and every other choice.
class Others final : public FieldVisitor {
 public:
  std::vector<std::string> settings;

 private:
  void field(std::string_view name, const Value& v, const FieldOptions& options) override {
    if (const bool* on = v.as<bool>()) {
      settings.push_back(fmt::format("{}: {}", name, !*on));
    } else if (const auto* one = v.as<EnumValue>()) {
      const std::span<const std::string_view> all = one->names(), allowed = options.allowed.names;
      for (const std::string_view choice : allowed.empty() ? all : allowed) {
        if (choice != one->get()) {
          settings.push_back(fmt::format("{}: \"{}\"", name, choice));
        }
      }
    } else if (name == "conv") {
      settings.push_back(*v.as<Index>() > 0 ? "conv: 0" : "conv: 3");
      settings.push_back("conv: 1");
    }
  }
};

/// Mixers that a mixer is made of.
class Inner final : public FieldVisitor {
 public:
  explicit Inner(const AnyComponent& mixer) { mixer.config().visit(*this); }
  std::vector<AnyComponent*> mixers;

 private:
  void field(std::string_view, const Value& v, const FieldOptions&) override {
    auto* const part = v.as<AnyComponent>();
    if (part != nullptr && &part->catalog() == &TokenMixer::registry()) {
      mixers.push_back(part);
    }
  }
};

/// Defaults are made for wide models.
void shrink(const AnyComponent& mixer) {
  for (const auto& [field, value] : TokenMixer::registry().traits(mixer.name()).small) {
    SetWhole set(field, value);
    mixer.config().visit(set);
  }
  for (const AnyComponent* const inner : Inner(mixer).mixers) {
    shrink(*inner);
  }
}
void shrink(ModelConfig& c) {
  for (const auto& layer : c.layers) {
    shrink(layer);
  }
}

layers::MixerTraits traits_of(const AnyComponent& mixer) {
  layers::MixerTraits all = TokenMixer::registry().traits(mixer.name());
  for (const AnyComponent* const inner : Inner(mixer).mixers) {
    const layers::MixerTraits own = traits_of(*inner);
    all.learns_within = std::max(all.learns_within, own.learns_within);
    all.width = std::max(all.width, own.width);
  }
  return all;
}

}  // namespace

layers::MixerTraits traits_of(const MixerCase& c) {
  layers::MixerTraits all;
  all.learns_within = 0;
  for (const auto& layer : c.config.layers) {
    const layers::MixerTraits own = traits_of(layer);
    all.causal &= own.causal;
    all.learns_within = std::max(all.learns_within, own.learns_within);
    all.width = std::max(all.width, own.width);
  }
  return all;
}

MixerCase mixer_case(std::string name, const std::string& yaml) {
  MixerCase c{std::move(name), {}};
  c.config.width = 16;
  c.config.init_std = 0.3;
  c.config.channel.choose("none");
  read_config(ConfigTree::from_text(yaml, c.name), c.config);
  c.config.width = std::max(c.config.width, traits_of(c).width);
  return c;
}

std::vector<std::string> right_mixers() {
  std::vector<std::string> out;
  for (const std::string& name : TokenMixer::registry().names()) {
    if (name.rfind("wrong_", 0) != 0) {
      out.push_back(name);
    }
  }
  return out;
}

std::vector<MixerCase> mixer_cases() {
  std::vector<MixerCase> cases;
  for (const std::string& name : right_mixers()) {
    MixerCase plain = mixer_case(name, "layers: [" + name + "]");
    shrink(plain.config);
    cases.push_back(plain);
    Others others;
    plain.config.layers[0].config().visit(others);
    for (const std::string& setting : others.settings) {
      MixerCase c;
      try {
        c = mixer_case(name + ", " + setting,
                       fmt::format("layers: [{{name: {}, {}}}]", name, setting));
        shrink(c.config);
        read_config_text<ModelConfig>(dump_yaml(c.config));  // checks what was made smaller
      } catch (const Error&) {
        continue;  // not with the other defaults
      }
      cases.push_back(std::move(c));
    }
  }
  const std::vector<std::pair<std::string, std::string>> picked = {
      {"attention, grouped queries", "{name: attention, heads: 4, kv_heads: 2, qk_norm: true}"},
      {"attention, one key head, head_dim",
       "{name: attention, heads: 3, kv_heads: 1, head_dim: 6}"},
      {"attention, window 1", "{name: attention, heads: 2, window: 1}"},
      {"attention, window 5", "{name: attention, heads: 2, window: 5, kv_heads: 1}"},
      {"attention, window 5, no positions", "{name: attention, window: 5, position: none}"},
      {"attention, window beyond the tokens", "{name: attention, heads: 2, window: 100}"},
      {"attention, yarn",
       "{name: attention, heads: 2, rope_scaling: {type: yarn, factor: 4, original_length: 4}}"},
      {"attention, window 5, dynamic",
       "{name: attention, heads: 2, window: 5, rope_scaling: {type: dynamic, factor: 4, "
       "original_length: 4, length: 16}}"},
      {"attention, longrope",
       "{name: attention, heads: 4, rope_scaling: {type: longrope, factor: 4, original_length: 4, "
       "length: 16, short_factor: [1, 1], long_factor: [1, 3]}}"},
      {"linear_attn, not normalised",
       "{name: linear_attn, heads: 2, normalize: false, feature_map: identity, scale: true}"},
      {"linear_attn, all on",
       "{name: linear_attn, heads: 2, expand_k: 0.5, expand_v: 2, feature_map: relu, conv: 4, "
       "scale: true, out_norm: true, eps: 0.1}"},
      {"retnet, narrow values", "{name: retnet, heads: 4, expand_v: 0.5, conv: 2, rope_theta: 50}"},
      {"simple_gla, expanded",
       "{name: simple_gla, heads: 1, expand_k: 0.5, expand_v: 2, gate_normalizer: 1}"},
      {"deltanet, expanded",
       "{name: deltanet, heads: 4, expand_k: 0.5, expand_v: 1.5, gate: true, "
       "eigenvalues: \"[-1,1]\"}"},
      {"gated_deltanet, grouped values",
       "{name: gated_deltanet, heads: 2, value_heads: 4, head_dim: 4, expand_v: 1.5}"},
      {"gated_deltanet, bare",
       "{name: gated_deltanet, heads: 1, value_heads: 3, head_dim: 8, expand_v: 0.5, conv: 0, "
       "gate: false, eigenvalues: \"[-1,1]\"}"},
      {"kda, grouped values",
       "{name: kda, heads: 2, value_heads: 4, head_dim: 4, expand_v: 1.5, rank: 3, conv: 0}"},
      {"kda, bounded", "{name: kda, heads: 2, head_dim: 8, rank: 3, lower_bound: -5}"},
      {"gla, expanded",
       "{name: gla, heads: 1, expand_k: 1, expand_v: 2, gate_rank: 3, gate_normalizer: 1, conv: "
       "2}"},
      {"hgrn2, bounded", "{name: hgrn2, head_dim: 8, lower_bound: 0.6}"},
      {"mamba, normed inputs",
       "{name: mamba, expand: 1.5, state_dim: 3, dt_rank: 5, conv: 2, norm_inputs: true}"},
      {"mamba2, groups",
       "{name: mamba2, head_dim: 4, state_dim: 6, groups: 3, expand: 1.5, conv: 2}"},
      {"mamba2, limited steps",
       "{name: mamba2, head_dim: 4, state_dim: 6, dt_min: 0.005, dt_max: 0.05}"},
      {"gru, block-diagonal, reset before",
       "{name: gru, heads: 4, reset: before, recurrent_init: orthogonal}"},
      {"lstm, dense", "{name: lstm, heads: 1, forget_bias: -1}"},
      {"lstm, block-diagonal", "{name: lstm, heads: 4, recurrent_init: orthogonal}"}};
  for (const auto& [name, layer] : picked) {
    cases.push_back(mixer_case(name, "layers: [" + layer + "]"));
  }
  // All causal mixers, some in a row (rounding grows with each layer), and each in both directions.
  constexpr std::size_t kInARow = 5;
  std::vector<std::string> names;
  for (const std::string& name : right_mixers()) {
    if (TokenMixer::registry().traits(name).causal) {
      names.push_back(name);
      MixerCase both =
          mixer_case(name + ", both ways", "layers: [{name: bidirectional, of: " + name + "}]");
      shrink(both.config);
      cases.push_back(std::move(both));
    }
  }
  for (std::size_t first = 0; first < names.size(); first += kInARow) {
    const std::size_t last = std::min(first + kInARow, names.size());
    std::string row;
    for (std::size_t i = first; i < last; ++i) {
      row += (i == first ? "" : ", ") + names[i];
    }
    MixerCase hybrid = mixer_case("in a row: " + row, "{layers: [" + row + "], channel: swiglu}");
    shrink(hybrid.config);
    hybrid.config.init_std = 0.1;
    cases.push_back(hybrid);
  }
  const std::vector<std::pair<std::string, std::string>> skeletons = {
      {"LayerNorm, GELU, tied",
       "{norm: layer_norm, channel: {name: gelu, expand: 2}, tie_embeddings: true}"},
      {"SwiGLU, tied", "{channel: {name: swiglu, multiple: 8}, tie_embeddings: true}"},
      {"erf GELU without biases", "{channel: {name: gelu, activation: gelu_erf, bias: false}}"},
      {"LayerNorm, no channel mixer", "{norm: layer_norm, channel: none}"}};
  for (const auto& [name, yaml] : skeletons) {
    MixerCase c = mixer_case(name, yaml);
    c.config.layers = {Component<TokenMixer>("gated_deltanet"), Component<TokenMixer>("attention")};
    shrink(c.config);
    cases.push_back(std::move(c));
  }
  // Their first values depend on the place of the block.
  MixerCase rwkv = mixer_case("rwkv6, three blocks with their channel mixers",
                              "{layers: [{repeat: 3, of: {name: rwkv6, head_dim: 8, shift_rank: 3, "
                              "decay_rank: 5}}], channel: rwkv6, norm: layer_norm}");
  rwkv.config.init_std = 0.1;
  cases.push_back(std::move(rwkv));
  for (const std::string bound : {"learned", "learned_fla"}) {
    MixerCase rising = mixer_case(
        "hgrn2, three layers, bounds " + bound,
        "layers: [{repeat: 3, of: {name: hgrn2, head_dim: 4, bound: " + bound + "}}, gla]");
    shrink(rising.config);
    cases.push_back(std::move(rising));
  }
  MixerCase both = mixer_case("hgrn2, learned bounds, both ways",
                              "layers: [{repeat: 2, of: {name: bidirectional, of: {name: hgrn2, "
                              "head_dim: 4, bound: learned}}}]");
  cases.push_back(std::move(both));
  MixerCase pattern =
      mixer_case("three to one, twice",
                 "layers: [{repeat: 2, of: [{repeat: 3, of: gated_deltanet}, attention]}]");
  shrink(pattern.config);
  pattern.config.init_std = 0.1;  // eight blocks deep
  cases.push_back(std::move(pattern));
  return cases;
}

}  // namespace ls::test
