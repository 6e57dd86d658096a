#pragma once
#include <array>
#include <string_view>
#include <vector>

#include "core/base/enum_names.h"
#include "core/base/types.h"
#include "core/op/gives_y.h"

namespace ls::ops {

/// Rotary positions: pairs of channels are turned by positions * inv_freq.
/// @shape  x [B,T,H,D], positions [B,T], inv_freq [P] or absent (theta^(-2p/(2P)), 2P channels)
///         -> y [B,T,H,D]: the first 2P channels of each head are turned, the rest is copied
/// @dtype  x any float; angles in f64, so that long contexts keep their phase
/// @source Su et al. 2104.09864
struct Rope : GivesY {
  template <class T>
  struct In {
    T x, positions, inv_freq;
  };
  struct Attrs {
    double theta = 10000;
    Index rotary_dim = 0;         ///< channels turned without inv_freq; 0: all
    bool interleaved = false;     ///< pairs (2p, 2p+1) instead of (p, p + P)
    double attention_factor = 1;  ///< factor on cosine and sine
    void fields(auto&& f) const {
      f("theta", theta, "base of the frequencies");
      f("rotary_dim", rotary_dim, "channels turned without inv_freq; 0: all");
      f("interleaved", interleaved, "pairs (2p, 2p+1) instead of (p, p + P)");
      f("attention_factor", attention_factor, "factor on cosine and sine");
    }
  };
};

/// Rules for the frequencies of contexts longer than the trained one, by their published names:
/// linear is position interpolation (Chen et al. 2306.15595), dynamic NTK-aware scaling, yarn Peng
/// et al. 2309.00071, llama3 that of Llama 3.1, longrope Ding et al. 2402.13753.
enum class RopeType : std::uint8_t { kDefault, kLinear, kDynamic, kYarn, kLlama3, kLongRope };

}  // namespace ls::ops

template <>
struct ls::EnumNames<ls::ops::RopeType> {
  static constexpr std::string_view kKind = "rope type";
  static constexpr std::array<std::string_view, 6> kNames = {"default", "linear", "dynamic",
                                                             "yarn",    "llama3", "longrope"};
};

namespace ls::ops {

struct RopeRule {
  RopeType type = RopeType::kDefault;
  double theta = 10000;
  Index rotary_dim = 0;
  double factor = 1;
  double original_max_position = 0;  ///< trained length: yarn, llama3, longrope
  double max_position = 0;           ///< trained length: dynamic
  double seq_len = 0;                ///< that the frequencies are made for: dynamic, longrope
  double beta_fast = 32, beta_slow = 1;
  bool truncate = true;
  double mscale = 0, mscale_all_dim = 0;  ///< yarn; 0: not given
  double low_freq_factor = 1, high_freq_factor = 4;
  std::vector<double> short_factor, long_factor;
};
/// Factor on cosine and sine under a rule: with m(s) = 1 + s ln(factor) / 10 (1 up to factor 1),
/// yarn has m(1), or m(mscale) / m(mscale_all_dim) where both are given; longrope has
/// sqrt(1 + ln(factor) / ln(original_max_position)); every other rule 1.
/// @source transformers, modeling_rope_utils
double rope_attention_factor(const RopeRule& rule);
/// inv_freq [rotary_dim / 2] under a rule.
/// @throws Error(Config) where longrope's factors are not one for each pair
std::vector<double> rope_inv_freq(const RopeRule& rule);

}  // namespace ls::ops
