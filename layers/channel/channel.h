#pragma once
// Channel mixers: the half of a block that mixes channels.
#include <memory>

#include "core/config/component.h"
#include "layers/module.h"
#include "layers/seq_context.h"

namespace ls::layers {

struct ChannelArgs {
  Scope scope;
  Index width = 0;
  double init_std = 0.02;
};

class ChannelMixer {
 public:
  using Registry = ComponentRegistry<ChannelMixer, const ChannelArgs&>;
  static Registry& registry();
  virtual ~ChannelMixer() = default;
  /// x [B,T,D] -> [B,T,D]; B and T as in `seq`, which it may scan (token shifts).
  virtual ag::Var forward(const ag::Var& x, SeqContext& seq) = 0;
  /// False for the absent channel mixer: the block then has no second half.
  virtual bool present() const { return true; }
};

}  // namespace ls::layers
