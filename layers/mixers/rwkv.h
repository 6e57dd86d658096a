#pragma once
// What RWKV's token and channel mixer share: mixes with the token before.
#include "layers/mixers/mixer.h"

namespace ls::layers {

/// First values by the place in the parameter.
Init by_place(std::function<double(Index)> value);
/// Place of a block among the blocks, from 0 for the first to 1 for the last; 0 for a single one.
double block_ratio(Index layer, Index depth);

/// Mix of a token with the one before: x_t + (x_{t-1} - x_t) (share + more_t), shares by channel.
/// Not decayed; at first 1 - (i / width)^power - less.
/// @source Peng 2404.05892
class TokenMix {
 public:
  TokenMix() = default;
  TokenMix(const Scope& scope, const std::string& name, Index width, double power, double less = 0);
  /// x and its `difference` to the token before [B,T,width]; `more` of any float type, or undefined
  ag::Var operator()(const ag::Var& x, const ag::Var& difference, const ag::Var& more = {}) const;

 private:
  ag::Var share_;
};

}  // namespace ls::layers
