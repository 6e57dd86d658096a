#pragma once
// Token mixers: the one contract of everything that looks along the sequence.
#include <cmath>
#include <memory>

#include "core/config/component.h"
#include "layers/module.h"
#include "layers/seq_context.h"

namespace ls::layers {

/// What a mixer is given besides its own Config.
struct MixerArgs {
  Scope scope;
  Index width = 0;  ///< of the residual stream
  Index layer = 0;  ///< its block, from 0
  Index depth = 1;  ///< blocks of the model
  double init_std = 0.02;
  double norm_eps = 1e-5;
};

/// 1 / sqrt(n), the usual scale of products of n channels.
inline double inverse_root(Index n) {
  return 1.0 / std::sqrt(static_cast<double>(n));
}

/// `forward` serves training, prefill, decoding (T = 1) and split sequences alike: project, call
/// `seq.scan`, gate, project back. States live in the slots of `seq`; a mixer has none of its own.
class TokenMixer {
 public:
  using Registry = ComponentRegistry<TokenMixer, const MixerArgs&>;
  static Registry& registry();
  virtual ~TokenMixer() = default;
  /// x [B,T,D] -> [B,T,D] of the same float type, D = MixerArgs::width; B and T as in `seq`, T may
  /// be 0. Output t depends on inputs up to t of the same row and document, carried ones included.
  virtual ag::Var forward(const ag::Var& x, SeqContext& seq) = 0;
};

/// In layers/mixers/<name>.cpp: LS_REGISTER(TokenMixer, Type, "name", "equation and source").

}  // namespace ls::layers
