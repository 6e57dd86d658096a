#pragma once
// Wiring that matrix-state mixers share: one input projection cut into named pieces, a short
// convolution over the query, key and value channels, and the normalised, gated output.
#include <optional>
#include <string>
#include <vector>

#include "layers/limits.h"
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

/// Heads of a mixer. Value head h reads query and key head h / (value_heads / heads).
struct HeadShape {
  Index heads = 1, value_heads = 1;  ///< a multiple of heads
  Index key_dim = 1, value_dim = 1;  ///< channels of a head
  Index keys() const { return heads * key_dim; }
  Index values() const { return value_heads * value_dim; }
};

/// Config fields of heads whose channels together are a multiple of the model's width.
struct ExpandedHeads {
  Index heads = 4;
  double expand_k = 1, expand_v = 1;
  template <class F>
  void fields(F& f) {
    f("heads", heads, {.help = "number of heads", .min = 1, .max = kMaxHeads});
    f("expand_k", expand_k,
      {.help = "query and key width over model width", .max = kMaxExpand, .above = 0});
    f("expand_v", expand_v,
      {.help = "value width over model width", .max = kMaxExpand, .above = 0});
  }
  /// `mixer` names the caller in errors.
  /// @throws Error(Config) when the channels of a head are not whole or none
  HeadShape shape(const char* mixer, Index width) const;
};

/// Config fields of heads of given size, values shared by groups or not.
struct SizedHeads {
  Index heads = 4;
  std::optional<Index> value_heads;
  Index head_dim = 64;
  double expand_v = 1;
  template <class F>
  void fields(F& f) {
    f("heads", heads, {.help = "number of query and key heads", .min = 1, .max = kMaxHeads});
    f("value_heads", value_heads,
      {.help = "value heads, a multiple of heads; as many when null", .min = 1, .max = kMaxHeads});
    f("head_dim", head_dim,
      {.help = "query and key channels of a head", .min = 1, .max = kMaxHeadDim});
    f("expand_v", expand_v,
      {.help = "value channels of a head over head_dim", .max = kMaxExpand, .above = 0});
    f.check(value_heads.value_or(heads) % heads == 0, "value_heads", "must be a multiple of heads");
  }
  /// @throws Error(Config) when the value channels of a head are not whole or none
  HeadShape shape(const char* mixer) const;
};

/// Config field of HeadInput's convolution.
template <class F>
void conv_field(F& f, Index& conv) {
  f("conv", conv,
    {.help = "taps of the short convolution with SiLU on q, k, v; 0 for none",
     .min = 0,
     .max = kMaxTaps});
}

/// Queries, keys and values by head, and an output gate where asked: one projection `in`, its rows
/// [q | k | v | gate], then the short convolution on q, k and v.
class HeadInput {
 public:
  struct Options {
    Index conv = 0;
    bool gate = false;
    std::string name = "in";
  };
  struct Parts {
    ag::Var q, k;  ///< [B,T,heads,key_dim]
    ag::Var v;     ///< [B,T,value_heads,value_dim]
    ag::Var gate;  ///< [B,T,value_heads*value_dim]
  };
  HeadInput() = default;
  HeadInput(const MixerArgs& args, const HeadShape& shape, const Options& options);
  /// x [B,T,D] -> parts of its type
  Parts operator()(const ag::Var& x, SeqContext& seq) const;

 private:
  HeadShape shape_;
  bool gate_ = false;
  Linear in_;
  ShortConvLayer conv_;
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
template <class F>
void eigenvalues_field(F& f, Eigenvalues& eigenvalues) {
  f("eigenvalues", eigenvalues,
    {.help = "range of the transition's eigenvalues; [-1,1] doubles beta (Grazzi 2024)"});
}
/// sigmoid of the logits, or twice that.
ag::Var beta_of(const ag::Var& logits, Eigenvalues eigenvalues);

}  // namespace ls::layers

template <>
struct ls::EnumNames<ls::layers::Eigenvalues> {
  static constexpr std::string_view kKind = "range of eigenvalues";
  static constexpr std::array<std::string_view, 2> kNames = {"[0,1]", "[-1,1]"};
};
