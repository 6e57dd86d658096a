#pragma once
// Wiring that matrix-state mixers share: one input projection cut into named pieces, a short
// convolution over the query, key and value channels, and the normalised, gated output.
#include <string>
#include <vector>

#include "layers/mixers/mixer.h"

namespace ls::layers {

/// Depthwise causal convolution of `width` taps and SiLU, with a bias where asked; width 0: none, x
/// passes as it is. First taps N(0, init_std), biases 0.
class ShortConvLayer {
 public:
  ShortConvLayer() = default;
  ShortConvLayer(const MixerArgs& args, Index channels, Index width, bool bias = false);
  /// x [B,T,channels] -> the same; the last width-1 inputs are carried under `slot`.
  ag::Var operator()(const ag::Var& x, SeqContext& seq, const std::string& slot) const;

 private:
  ag::Var weight_, bias_;
};

/// RMS norm of each head (unless `norm` is false), gain shared by heads, times silu(gate) or
/// sigmoid(gate) when there is a gate, which needs the norm; then the output projection without
/// bias. o [B,T,H,Dv], gate [B,T,H*Dv] or undefined -> [B,T,D], all of one float type.
class HeadOutput {
 public:
  HeadOutput() = default;
  HeadOutput(const MixerArgs& args, Index heads, Index dim, bool norm = true);
  ag::Var operator()(const ag::Var& o, const ag::Var& gate, bool sigmoid = false) const;

 private:
  double eps_ = 1e-5;
  ag::Var norm_;
  Linear out_;
};

/// Range of the eigenvalues of I - beta k k^T, k a unit vector.
enum class Eigenvalues : std::uint8_t {
  kPositive,  ///< [0,1]: beta in [0,1]
  kSigned,    ///< [-1,1]: beta is doubled (Grazzi 2024)
};
/// sigmoid of the logits, or twice that.
ag::Var beta_of(const ag::Var& logits, Eigenvalues eigenvalues);

/// Head sizes from the two usual ways of giving them.
struct HeadShape {
  Index heads, key_dim, value_dim;
};
/// Key and value channels of a head, width * expand / heads. `mixer` names the caller in errors.
/// @throws Error(Config) when they are not whole or nothing is left
HeadShape expanded_heads(const char* mixer, Index width, Index heads, double expand_k,
                         double expand_v);

/// Value channels of a head, head_dim * expand_v.
/// @throws Error(Config) when they are not whole or nothing is left
Index value_channels(const char* mixer, Index head_dim, double expand_v);

}  // namespace ls::layers

template <>
struct ls::EnumNames<ls::layers::Eigenvalues> {
  static constexpr std::string_view kKind = "range of eigenvalues";
  static constexpr std::array<std::string_view, 2> kNames = {"[0,1]", "[-1,1]"};
};
