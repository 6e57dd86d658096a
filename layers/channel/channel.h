#pragma once
// Channel mixers: the position-wise half of a block.
#include <memory>

#include "core/config/component.h"
#include "layers/module.h"

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
  /// x [...,D] -> [...,D]
  virtual ag::Var forward(const ag::Var& x) = 0;
  /// False for the absent channel mixer: the block then has no second half.
  virtual bool present() const { return true; }
};

}  // namespace ls::layers
