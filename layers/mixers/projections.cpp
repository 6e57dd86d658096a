#include "layers/mixers/projections.h"

#include <cmath>

#include "autograd/functional.h"
#include "core/ops/activation/activation.h"
#include "core/ops/rms_norm/rms_norm.h"
#include "core/ops/short_conv/short_conv.h"

namespace ls::layers {

ShortConvLayer::ShortConvLayer(const MixerArgs& args, Index channels, Index width, bool bias) {
  if (width == 0) {
    return;
  }
  const Scope scope = args.scope.child("conv");
  weight_ = scope.param("weight", {channels, width}, Init::normal(args.init_std));
  if (bias) {
    bias_ = scope.param("bias", {channels}, Init::constant(0), {.decay = false});
  }
}

ag::Var ShortConvLayer::operator()(const ag::Var& x, SeqContext& seq,
                                   const std::string& slot) const {
  if (!weight_.defined()) {
    return x;
  }
  return seq.scan<ops::ShortConv>(slot, {.x = x, .weight = weight_, .bias = bias_}, {.silu = true})
      .y;
}

HeadShape ExpandedHeads::shape(const char* mixer, Index width) const {
  const auto dim = [&](double expand, const char* field) {
    const double total = static_cast<double>(width) * expand;
    const auto whole = static_cast<Index>(std::llround(total));
    LS_CHECK(
        whole > 0 && std::abs(total - static_cast<double>(whole)) < 1e-9 && whole % heads == 0,
        kConfig,
        "{}: width {} times {} = {} gives {}, which {} heads do not divide; change heads or {}",
        mixer, width, field, expand, total, heads, field);
    return whole / heads;
  };
  return {heads, heads, dim(expand_k, "expand_k"), dim(expand_v, "expand_v")};
}

HeadShape SizedHeads::shape(const char* mixer) const {
  const double exact = static_cast<double>(head_dim) * expand_v;
  const auto whole = static_cast<Index>(std::llround(exact));
  LS_CHECK(whole > 0 && std::abs(exact - static_cast<double>(whole)) < 1e-9, kConfig,
           "{}: head_dim {} times expand_v {} is not a whole number of channels", mixer, head_dim,
           expand_v);
  return {heads, value_heads.value_or(heads), head_dim, whole};
}

HeadInput::HeadInput(const MixerArgs& args, const HeadShape& shape, const Options& options)
    : shape_(shape), gate_(options.gate) {
  const Index qkv = 2 * shape.keys() + shape.values();
  in_ = Linear(args.scope.child(options.name), args.width, qkv + (gate_ ? shape.values() : 0),
               Init::normal(args.init_std));
  conv_ = ShortConvLayer(args, qkv, options.conv);
}

HeadInput::Parts HeadInput::operator()(const ag::Var& x, SeqContext& seq) const {
  const Index b = seq.batch(), t = seq.tokens(), keys = shape_.keys(), values = shape_.values();
  ag::Var qkv = in_(x), gate;
  if (gate_) {
    const auto halves = ag::split(qkv, 2, {2 * keys + values, values});
    qkv = halves[0];
    gate = halves[1];
  }
  const auto parts = ag::split(conv_(qkv, seq, "conv"), 2, {keys, keys, values});
  return {.q = ag::reshape(parts[0], {b, t, shape_.heads, shape_.key_dim}),
          .k = ag::reshape(parts[1], {b, t, shape_.heads, shape_.key_dim}),
          .v = ag::reshape(parts[2], {b, t, shape_.value_heads, shape_.value_dim}),
          .gate = gate};
}

HeadOutput::HeadOutput(const MixerArgs& args, Index heads, Index dim, bool norm)
    : eps_(args.norm_eps) {
  if (norm) {
    norm_ =
        args.scope.child("out_norm").param("weight", {dim}, Init::constant(1), {.decay = false});
  }
  out_ = Linear(args.scope.child("out"), heads * dim, args.width, Init::normal(args.init_std));
}

ag::Var HeadOutput::operator()(const ag::Var& o, const ag::Var& gate, bool sigmoid) const {
  const Index b = o.size(0), t = o.size(1), h = o.size(2), d = o.size(3);
  ag::Var y = o;
  if (norm_.defined()) {
    const ag::Var z = gate.defined() ? ag::reshape(gate, {b, t, h, d}) : ag::Var();
    y = ag::call<ops::RmsNorm>({.x = o, .weight = norm_, .z = z},
                               {.eps = eps_, .norm_before_gate = true, .gate_sigmoid = sigmoid})
            .y;
  }
  return out_(ag::reshape(y, {b, t, h * d}));
}

ag::Var beta_of(const ag::Var& logits, Eigenvalues eigenvalues) {
  const ag::Var beta =
      ag::call<ops::Activation>({.x = logits}, {.activation = ops::Act::kSigmoid}).y;
  return eigenvalues == Eigenvalues::kSigned ? ag::scale(beta, 2.0) : beta;
}

}  // namespace ls::layers
