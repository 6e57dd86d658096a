#pragma once
// Wiring that matrix-state mixers share: one input projection cut into named pieces, a short
// convolution over the query, key and value channels, and the normalised, gated output.
#include <string>
#include <vector>

#include "layers/mixers/mixer.h"

namespace ls::layers {

/// Depthwise causal convolution with SiLU over the first channels of a projection. Width 0 or 1 tap
/// count means none.
class ShortConvLayer {
 public:
  ShortConvLayer() = default;
  ShortConvLayer(const MixerArgs& args, Index channels, Index width,
                 const std::string& activation = "silu");
  /// x [B,T,channels]; carried under `slot`. The identity when there is no convolution.
  ag::Var operator()(const ag::Var& x, SeqContext& seq, const std::string& slot) const;

 private:
  std::string activation_;
  ag::Var weight_;
};

/// RMS norm of each head, gain shared by heads, times silu(gate) when there is a gate; then the
/// output projection. o [B,T,H,Dv], gate [B,T,H*Dv] or undefined -> [B,T,D].
class HeadOutput {
 public:
  HeadOutput() = default;
  HeadOutput(const MixerArgs& args, Index heads, Index dim, bool norm = true);
  ag::Var operator()(const ag::Var& o, const ag::Var& gate) const;

 private:
  double eps_ = 1e-5;
  ag::Var norm_;
  Linear out_;
};

/// Head sizes from the two usual ways of giving them.
struct HeadShape {
  Index heads, key_dim, value_dim;
};
/// width * expand / heads, checked to be whole. `mixer` names the caller in errors.
HeadShape expanded_heads(const char* mixer, Index width, Index heads, double expand_k,
                         double expand_v);

}  // namespace ls::layers
