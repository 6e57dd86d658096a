#include "autograd/functional.h"
#include "core/ops/activation/activation.h"
#include "core/ops/cumsum/cumsum.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/sigmoid_gate/sigmoid_gate.h"
#include "core/ops/softmax/softmax.h"
#include "layers/limits.h"
#include "layers/mixers/mixer.h"

namespace ls::layers {

enum class ForgetBound : std::uint8_t {
  kFixed,       ///< a number
  kLearned,     ///< layer l of L: P_1 + .. + P_{l-1}, P the softmax of parameters over the layers
  kLearnedFla,  ///< P_2 + .. + P_l, as flash-linear-attention has it
};

}  // namespace ls::layers

template <>
struct ls::EnumNames<ls::layers::ForgetBound> {
  static constexpr std::string_view kKind = "bound";
  static constexpr std::array<std::string_view, 3> kNames = {"fixed", "learned", "learned_fla"};
};

namespace ls::layers {
namespace {

/// HGRN2: S_t = Diag(f_t) S_{t-1} + (1 - f_t) i_t^T, o_t = q_t S_t, a forget gate for each key
/// channel, f = low + (1 - low) sigmoid(W_f x), q = sigmoid(W_q x), i = silu(W_i x); o goes through
/// a layer norm of all channels (Qin 2404.07904). Rows of S are averages of past i. Wiring of the
/// authors' layer (Doraemonzzz/hgru2-pytorch) without its biases; `head_dim` is their expand ratio.
/// Bounds that are learned rise from layer to layer, by channel: sums of the softmax, over the
/// model's L hgrn2 layers of a kind, of one parameter [L,D], 0 at first. The first of them has it
/// and hands on the bounds of all; its own is 0 in either way of summing.
class Hgrn2 final : public TokenMixer {
 public:
  struct Config {
    Index head_dim = 128;
    ForgetBound bound = ForgetBound::kFixed;
    double lower_bound = 0;
    template <class F>
    void fields(F& f) {
      f("head_dim", head_dim,
        {.help = "key and value channels of a head", .min = 1, .max = kMaxHeadDim});
      f("bound", bound,
        {.help =
             "the least that a forget gate keeps: fixed, or learned, by channel and rising from "
             "each hgrn2 layer to the next, in the way of the paper or of "
             "flash-linear-attention"});
      f("lower_bound", lower_bound, {.help = "that least, where it is fixed", .min = 0});
      f.check(lower_bound < 1, "lower_bound", "must be below 1, or nothing is ever written");
      f.check(bound == ForgetBound::kFixed || lower_bound == 0, "lower_bound",
              "is for bound: fixed; leave it out");
    }
  };
  Hgrn2(const Config& c, const MixerArgs& a)
      : c_(c),
        width_(a.width),
        layer_(a.of_kind),
        layers_(a.kinds),
        handed_(a.kind + ".bounds." + std::string(enum_name(c.bound))),
        norm_(a.scope.child("out_norm"), NormKind::kLayer, a.width, a.norm_eps) {
    LS_CHECK(width_ % c.head_dim == 0, kConfig,
             "hgrn2: head_dim {} does not divide width {}; change head_dim", c.head_dim, width_);
    const Init init = Init::normal(a.init_std);
    if (c.bound != ForgetBound::kFixed && layer_ == 0 && layers_ > 1) {
      bounds_ = a.scope.param("bounds", {layers_, width_}, Init::constant(0), {.decay = false});
    }
    in_ = Linear(a.scope.child("in"), width_, 3 * width_, init);
    out_ = Linear(a.scope.child("out"), width_, width_, init);
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const Shape heads = {seq.batch(), seq.tokens(), width_ / c_.head_dim, c_.head_dim};
    const auto parts = ag::split(in_(x), 2, {width_, width_, width_});
    const auto gate = ag::call<ops::SigmoidGate>({.x = parts[1], .low = learned_bound(x, seq)},
                                                 {.lower_bound = c_.lower_bound});
    const ag::Var o =
        seq.scan<ops::DecayedLinear>("scan", {.q = activated(parts[0], ops::Act::kSigmoid, heads),
                                              .k = ag::reshape(gate.k, heads),
                                              .v = activated(parts[2], ops::Act::kSilu, heads),
                                              .gk = ag::reshape(gate.g, heads)})
            .o;
    return out_(norm_(ag::reshape(o, x.shape())));
  }

 private:
  /// [D], or undefined where it is not learned, or 0.
  ag::Var learned_bound(const ag::Var& x, SeqContext& seq) const {
    if (c_.bound == ForgetBound::kFixed) {
      return {};
    }
    if (layer_ == 0) {
      if (layers_ > 1) {
        seq.hand_on(handed_, sums(acc_dtype(x.dtype())));
      }
      return {};
    }
    const ag::Var all = seq.handed(handed_);
    LS_CHECK(all.defined() && all.size(0) == layers_, kConfig,
             "hgrn2: layer {} of {} has bound: {} and the first of them another; give all the same "
             "bound",
             layer_ + 1, layers_, enum_name(c_.bound));
    return ag::reshape(ag::slice(all, 0, layer_, layer_ + 1), {width_});
  }
  /// [L,D]: the bounds of all layers.
  ag::Var sums(DType dtype) const {
    const ag::Var p =
        ag::call<ops::Softmax>({.x = ag::transpose(ag::cast(bounds_, dtype), 0, 1)}, {}).y;
    const ag::Var up_to = ag::call<ops::Cumsum>({.x = p}, {.axis = -1}).y;
    const ag::Var out = c_.bound == ForgetBound::kLearned
                            ? ag::slice(up_to, 1, 0, layers_ - 1)
                            : ag::add(ag::slice(up_to, 1, 1, layers_), minus_first(p));
    const ag::Var none(Tensor::zeros({1, width_}, dtype, out.value().device()));
    return ag::concat({none, ag::transpose(out, 0, 1)}, 0);
  }
  /// -P_1 [D,L-1].
  ag::Var minus_first(const ag::Var& p) const {
    const ag::Var first = ag::scale(ag::slice(p, 1, 0, 1), -1);
    return ag::concat(std::vector<ag::Var>(static_cast<std::size_t>(layers_ - 1), first), 1);
  }
  static ag::Var activated(const ag::Var& x, ops::Act activation, const Shape& shape) {
    return ag::reshape(ag::call<ops::Activation>({.x = x}, {.activation = activation}).y, shape);
  }
  Config c_;
  Index width_, layer_, layers_;  ///< which hgrn2 layer, of how many
  std::string handed_;
  ag::Var bounds_;
  Linear in_, out_;
  Norm norm_;
};
LS_REGISTER(
    TokenMixer, Hgrn2, "hgrn2",
    "S = Diag(f) S + (1 - f) i^T, a bounded forget gate by key channel (Qin 2024); wiring of "
    "the authors' layer");

}  // namespace
}  // namespace ls::layers
