#pragma once
// Rotary positions beyond the trained length, as a section of a mixer's config.
#include <map>
#include <optional>
#include <vector>

#include "core/config/fields.h"
#include "core/ops/rope/rope.h"
#include "layers/seq_context.h"

namespace ls::layers {

/// `rope_scaling: {type: yarn, factor: 8, original_length: 512}`. A field that its type does not
/// read is an error.
struct RopeScalingConfig {
  using Type = ops::RopeType;
  Type type = Type::kDefault;
  std::optional<double> factor;
  std::optional<Index> original_length, length;
  std::optional<double> attention_factor;
  std::optional<double> beta_fast, beta_slow, mscale, mscale_all_dim;
  std::optional<bool> truncate;
  std::optional<double> low_freq_factor, high_freq_factor;
  std::vector<double> short_factor, long_factor;

  template <class F>
  void fields(F& f) {
    f("type", type,
      {.help = "rule for the frequencies: linear (position interpolation), dynamic (NTK-aware base "
               "by the length), yarn, llama3, longrope; default: none"});
    f("factor", factor, {.help = "by how much contexts grow; all but default", .min = 1});
    f("original_length", original_length,
      {.help = "tokens that the model was trained on; dynamic, yarn, llama3, longrope", .min = 2});
    f("length", length,
      {.help = "tokens that dynamic and longrope make the frequencies for; when null those that a "
               "row has in the end, of a prompt and what is written after it together",
       .min = 1});
    f("attention_factor", attention_factor,
      {.help = "factor on cosine and sine; the rule's when null", .above = 0});
    f("beta_fast", beta_fast,
      {.help = "yarn: turns over the original length above which a pair keeps its frequency, 32 "
               "when null",
       .above = 0});
    f("beta_slow", beta_slow,
      {.help = "yarn: turns below which a pair is divided by factor, 1 when null", .above = 0});
    f("mscale", mscale, {.help = "yarn: with mscale_all_dim, sets attention_factor", .above = 0});
    f("mscale_all_dim", mscale_all_dim, {.help = "yarn: see mscale", .above = 0});
    f("truncate", truncate, {.help = "yarn: round the ends of the ramp; true when null"});
    f("low_freq_factor", low_freq_factor,
      {.help =
           "llama3: wavelengths above original_length / this are divided by factor, 1 when null",
       .above = 0});
    f("high_freq_factor", high_freq_factor,
      {.help = "llama3: those below original_length / this stay, 4 when null", .above = 0});
    f("short_factor", short_factor,
      {.help = "longrope: divisors of the frequencies up to original_length, one for each pair of "
               "channels of a head",
       .above = 0});
    f("long_factor", long_factor, {.help = "longrope: the same of longer sequences", .above = 0});
    check(f);
  }

  /// Do the frequencies depend on the length of a sequence?
  bool by_length() const { return type == Type::kDynamic || type == Type::kLongRope; }
  /// The rule for heads of `dim` channels and sequences of `tokens`.
  ops::RopeRule rule(double theta, Index dim, Index tokens) const;

 private:
  template <class F>
  void check(F& f) const {
    const bool scaled = type != Type::kDefault, linear = type == Type::kLinear;
    const bool yarn = type == Type::kYarn, llama3 = type == Type::kLlama3;
    const bool longrope = type == Type::kLongRope;
    const auto only = [&](bool absent, bool allowed, const char* name, const char* of) {
      f.check(absent || allowed, name, std::string("belongs to ") + of);
    };
    f.check(!scaled || factor, "factor", "is needed: by how much contexts grow");
    f.check(!scaled || linear || original_length, "original_length",
            "is needed: the tokens that the model was trained on");
    only(!factor, scaled, "factor", "a type other than default; set type");
    only(!original_length, scaled && !linear, "original_length",
         "types dynamic, yarn, llama3 and longrope");
    only(!length, by_length(), "length", "types dynamic and longrope");
    only(!attention_factor, scaled, "attention_factor", "a type other than default; set type");
    only(!beta_fast, yarn, "beta_fast", "type yarn");
    only(!beta_slow, yarn, "beta_slow", "type yarn");
    only(!mscale, yarn, "mscale", "type yarn");
    only(!mscale_all_dim, yarn, "mscale_all_dim", "type yarn");
    only(!truncate, yarn, "truncate", "type yarn");
    only(!low_freq_factor, llama3, "low_freq_factor", "type llama3");
    only(!high_freq_factor, llama3, "high_freq_factor", "type llama3");
    only(short_factor.empty(), longrope, "short_factor", "type longrope");
    only(long_factor.empty(), longrope, "long_factor", "type longrope");
    f.check(beta_fast.value_or(32) > beta_slow.value_or(1), "beta_fast", "must be above beta_slow");
    f.check(high_freq_factor.value_or(4) > low_freq_factor.value_or(1), "high_freq_factor",
            "must be above low_freq_factor");
    f.check(mscale.has_value() == mscale_all_dim.has_value(), "mscale",
            "and mscale_all_dim are given together");
  }
};

/// The rotation of heads of `dim` channels under a config. The frequencies are those of a whole
/// sequence: keys in a cache were turned by them and are not turned again. So where they depend on
/// its length, that must be known when its first token comes: decoding with a cache then gives what
/// one pass over the sequence gives.
class Rotary {
 public:
  Rotary() = default;
  /// @throws Error(Config) where config and heads do not fit, naming `mixer`
  Rotary(const std::string& mixer, const RopeScalingConfig& scaling, double theta, Index dim);
  /// x [B,T,H,dim], turned by the positions of `seq`.
  /// @throws Error(Config) where the length is needed and not known
  ag::Var operator()(const ag::Var& x, const SeqContext& seq) const;

 private:
  Tensor frequencies(const SeqContext& seq, Device& device) const;
  Index tokens_of(const SeqContext& seq) const;

  RopeScalingConfig scaling_;
  double theta_ = 1;
  Index dim_ = 0;
  /// By device and length, 0 up to the original one. They stay, since recorded steps hold them.
  mutable std::map<std::pair<const Device*, Index>, Tensor> made_;
};

}  // namespace ls::layers
