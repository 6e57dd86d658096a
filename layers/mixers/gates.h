#pragma once
// Gates as mixers share them: the log-decay of Mamba, the log of a sigmoid, positive candidates,
// low-rank maps.
#include <optional>

#include "core/ops/common/act.h"
#include "layers/mixers/mixer.h"

namespace ls::layers {

/// log A, A uniform in [low, high], at least 1e-4: the rate of a decay exp(-A step).
Init log_rates(double low, double high);
/// What softplus makes a step of, log-uniform in [low, high] and at least 1e-4.
Init softplus_steps(double low = 0.001, double high = 0.1);

/// Log-decay of Mamba per token and head, or channel of one: g = -exp(a_log) softplus(logits +
/// dt_bias), or bounded, g = low sigmoid(exp(a_log) (logits + dt_bias)). Parameters `a_log` [heads]
/// and `dt_bias` [heads*channels], neither decayed; first steps softplus(dt_bias) log-uniform in
/// [.001, .1].
/// @source Gu & Dao 2312.00752; by channel Kimi 2510.26692
class MambaDecay {
 public:
  MambaDecay() = default;
  /// First rates are uniform in [low, high].
  MambaDecay(const Scope& scope, Index heads, double low, double high, Index channels = 1);
  /// Never below `lower_bound` < 0; first rates are 1.
  static MambaDecay bounded(const Scope& scope, Index heads, double lower_bound, Index channels);
  /// Keeps steps within [low, high], high 0 for none above, as dt_limit of state-spaces/mamba;
  /// those outside have no gradient. Not of bounded ones.
  void limit_steps(double low, double high);
  /// logits [B,T,heads*channels] of any float -> the same in acc
  ag::Var operator()(const ag::Var& logits) const;
  /// The step softplus(logits + dt_bias) alone, within its limits, of the same shape and type.
  ag::Var step(const ag::Var& logits) const;

 private:
  ag::Var a_log_, dt_bias_;
  double lower_bound_ = 0, low_ = 0, high_ = 0;
};

/// g = log sigmoid(logits) / normalizer, of any shape: gates that begin near 1.
/// @dtype  logits any float -> acc
/// @source Yang 2312.06635
ag::Var log_sigmoid_decay(const ag::Var& logits, double normalizer);

/// What minGRU and minLSTM write, above 0: x + 1/2 for x >= 0, else sigmoid(x).
/// @dtype  any float
/// @source Feng 2410.01201
ag::Var positive_candidate(const ag::Var& x);

/// y = W_up act(W_down x) + b: `down` [rank,in], `up` [out,rank], bias [out] (0 at first).
class LowRank {
 public:
  struct Options {
    ops::Act activation = ops::Act::kIdentity;
    bool bias = false;
    ParamOptions weight = {};
    std::optional<Init> up = {};  ///< first weights of W_up, where they are others
  };
  LowRank() = default;
  LowRank(const Scope& scope, Index in, Index rank, Index out, const Init& init,
          const Options& options);
  LowRank(const Scope& scope, Index in, Index rank, Index out, const Init& init)
      : LowRank(scope, in, rank, out, init, Options()) {}
  /// x [...,in] of any float -> [...,out] of that type
  ag::Var operator()(const ag::Var& x) const;

 private:
  Linear down_, up_;
  ops::Act activation_ = ops::Act::kIdentity;
};

}  // namespace ls::layers
