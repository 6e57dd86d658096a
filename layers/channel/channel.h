#pragma once
// Channel mixers: the half of a block that mixes channels.
#include <cmath>
#include <memory>

#include "core/config/component.h"
#include "layers/limits.h"
#include "layers/module.h"
#include "layers/seq_context.h"

namespace ls::layers {

struct ChannelArgs {
  Scope scope;
  Index width = 0;
  Index layer = 0;  ///< its block, from 0
  Index depth = 1;  ///< blocks of the model
  double init_std = 0.02;
};

/// Width of the hidden channels: the base of a Config.
struct HiddenWidth {
  double expand = 4;
  Index multiple = 1;
  template <class F>
  void fields(F& f) {
    f("expand", expand, {.help = "hidden width over model width", .max = kMaxExpand, .above = 0});
    f("multiple", multiple,
      {.help = "the hidden width is rounded up to a multiple of this", .min = 1, .max = kMaxWidth});
  }
  Index width(Index model) const {
    const Index h = std::llround(static_cast<double>(model) * expand);
    return (h + multiple - 1) / multiple * multiple;
  }
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
