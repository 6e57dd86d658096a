#pragma once
// Token mixers: the one contract of everything that looks along the sequence.
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/config/component.h"
#include "layers/module.h"
#include "layers/seq_context.h"

namespace ls::layers {

class TokenMixer;

/// What a mixer is given besides its own Config.
struct MixerArgs {
  Scope scope;
  Index width = 0;  ///< of the residual stream
  Index layer = 0;  ///< its block, from 0
  Index depth = 1;  ///< blocks of the model
  /// Among blocks with a mixer of this kind: which one from 0, and of how many. The kind is the
  /// name; within other mixers behind theirs and the field's, "bidirectional.of.gla".
  Index of_kind = 0, kinds = 1;
  std::string kind = {};
  /// What every block has: the kinds of its mixer and of those within.
  std::shared_ptr<const std::vector<std::set<std::string>>> blocks = {};
  double init_std = 0.02;
  double norm_eps = 1e-5;

  /// For `mixer`, which the config of this one has as `field`, with parameters below `name`.
  MixerArgs within(const std::string& field, const Component<TokenMixer>& mixer,
                   const std::string& name) const;
  /// Sets `kind`, and counts it in the blocks where these are given.
  void set_kind(std::string name);
};
/// The kind of a block's mixer, and of the mixers that are its settings.
std::set<std::string> kinds_of(const Component<TokenMixer>& mixer);

/// 1 / sqrt(n), the usual scale of products of n channels.
inline double inverse_root(Index n) {
  return 1.0 / std::sqrt(static_cast<double>(n));
}

/// What is known of a mixer besides its fields, for the laws that it is checked by. One that
/// differs has `static constexpr MixerTraits kTraits`.
struct MixerTraits {
  bool causal = true;         ///< output t depends on no later input
  Index learns_within = 150;  ///< updates after which it names what it saw a few tokens ago
  /// Whole numbers that make it as small as it can be tried, where it has such fields, and the
  /// width that they ask for.
  std::array<std::pair<std::string_view, Index>, 2> small{{{"heads", 2}, {"head_dim", 4}}};
  Index width = 16;
};

/// Mixers by name, with their traits.
class MixerRegistry final : public ComponentRegistry<TokenMixer, const MixerArgs&> {
 public:
  using ComponentRegistry::ComponentRegistry;
  template <class T>
  bool add(const std::string& name, std::string help,
           std::source_location where = std::source_location::current()) {
    if constexpr (requires { T::kTraits; }) {
      traits_.emplace(name, T::kTraits);
    }
    return ComponentRegistry::add<T>(name, std::move(help), where);
  }
  MixerTraits traits(const std::string& name) const {
    const auto own = traits_.find(name);
    return own == traits_.end() ? MixerTraits{} : own->second;
  }

 private:
  std::map<std::string, MixerTraits> traits_;
};

/// `forward` serves training, prefill, decoding (T = 1) and split sequences alike: project, call
/// `seq.scan`, gate, project back. States live in the slots of `seq`; a mixer has none of its own.
class TokenMixer {
 public:
  using Registry = MixerRegistry;
  static Registry& registry();
  virtual ~TokenMixer() = default;
  /// x [B,T,D] -> [B,T,D] of the same float type, D = MixerArgs::width; B and T as in `seq`, T may
  /// be 0. Output t depends on inputs up to t of the same row and document, carried ones included,
  /// unless its traits say otherwise.
  virtual ag::Var forward(const ag::Var& x, SeqContext& seq) = 0;
};

/// In layers/mixers/<name>.cpp: LS_REGISTER(TokenMixer, Type, "name", "equation and source").

}  // namespace ls::layers
