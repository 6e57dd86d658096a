#include <cmath>

#include "autograd/functional.h"
#include "core/ops/activation/activation.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/row_normalize/row_normalize.h"
#include "layers/mixers/projections.h"

namespace ls::layers {
namespace {
enum class FeatureMap : std::uint8_t { kElu1, kRelu, kIdentity };
}  // namespace
}  // namespace ls::layers

template <>
struct ls::EnumNames<ls::layers::FeatureMap> {
  static constexpr std::string_view kKind = "feature map";
  static constexpr std::array<std::string_view, 3> kNames = {"elu1", "relu", "identity"};
};

namespace ls::layers {
namespace {

/// Linear attention: S_t = S_{t-1} + phi(k_t) v_t^T, z_t = z_{t-1} + phi(k_t),
///   o_t = phi(q_t) S_t / (phi(q_t) z_t + eps).
/// The normaliser is one more value column of ones, so S has shape [Dk, Dv + 1]. With it the scan
/// and the division run in the acc type, and their quotient is rounded to the model's type: a
/// rounded normaliser would err alike in all channels of a head.
/// Defaults are those of idiap/fast-transformers (Katharopoulos et al. 2020): elu + 1, scale 1,
/// normalised, eps 1e-6, no output norm. flash-linear-attention's would be `scale: true`,
/// `out_norm: true`, eps 1e-10 and a learned feature map; its 8 heads are taken over, since the
/// first has no default. Projections have no biases.
class LinearAttn final : public TokenMixer {
 public:
  struct Config {
    ExpandedHeads heads{.heads = 8};
    FeatureMap feature_map = FeatureMap::kElu1;
    bool normalize = true;
    double eps = 1e-6;
    bool scale = false;
    bool out_norm = false;
    Index conv = 0;
    template <class F>
    void fields(F& f) {
      heads.fields(f);
      f("feature_map", feature_map, {.help = "function phi that queries and keys go through"});
      f("normalize", normalize, {.help = "divide each output by the sum of its weights"});
      f.check(!normalize || feature_map != FeatureMap::kIdentity, "normalize",
              "needs a feature map that is not negative: the sum of weights can vanish; set "
              "feature_map or normalize: false");
      f("eps", eps, {.help = "added to the sum of weights", .min = 0});
      f.check(!normalize || feature_map != FeatureMap::kRelu || eps > 0, "eps",
              "must be above 0 with relu features, which can all be 0");
      f("scale", scale, {.help = "scale queries by 1 / sqrt(key width)"});
      f("out_norm", out_norm, {.help = "RMS norm of each head's output"});
      conv_field(f, conv);
    }
  };
  LinearAttn(const Config& c, const MixerArgs& a)
      : c_(c), shape_(c.heads.shape("linear_attn", a.width)) {
    in_ = HeadInput(a, shape_, {.conv = c.conv, .name = "qkv"});
    out_ = HeadOutput(a, shape_.heads, shape_.value_dim, c.out_norm);
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const HeadInput::Parts parts = in_(x, seq);
    ag::Var q = feature_map(parts.q), k = feature_map(parts.k), v = parts.v;
    const DType dtype = v.dtype();
    if (c_.normalize) {
      q = ag::cast(q, acc_dtype(dtype));
      k = ag::cast(k, acc_dtype(dtype));
      v = ag::cast(v, acc_dtype(dtype));
      v = ag::concat({v, ag::Var(Tensor::full({v.size(0), v.size(1), v.size(2), 1}, v.dtype(), 1.0,
                                              v.value().device()))},
                     3);
    }
    ag::Var o =
        seq.scan<ops::DecayedLinear>("scan", {.q = q, .k = k, .v = v},
                                     {.scale = c_.scale ? inverse_root(shape_.key_dim) : 1.0})
            .o;
    if (c_.normalize) {
      o = ag::cast(ag::call<ops::RowNormalize>({.x = o}, {.eps = c_.eps}).y, dtype);
    }
    return out_(o, {});
  }

 private:
  ag::Var feature_map(const ag::Var& x) const {
    if (c_.feature_map == FeatureMap::kIdentity) {
      return x;
    }
    const ops::Act act =
        c_.feature_map == FeatureMap::kRelu ? ops::Act::kRelu : ops::Act::kEluPlusOne;
    return ag::call<ops::Activation>({.x = x}, {.activation = act}).y;
  }
  Config c_;
  HeadShape shape_;
  HeadInput in_;
  HeadOutput out_;
};
LS_REGISTER(TokenMixer, LinearAttn, "linear_attn",
            "linear attention: S += phi(k) v^T, o = phi(q) S / phi(q) z; defaults of "
            "idiap/fast-transformers (Katharopoulos 2020)");

}  // namespace
}  // namespace ls::layers
