#include "autograd/functional.h"
#include "core/ops/gated_scan/gated_scan.h"
#include "core/ops/mul/mul.h"
#include "core/ops/sigmoid_gate/sigmoid_gate.h"
#include "layers/limits.h"
#include "layers/mixers/gates.h"

namespace ls::layers {
namespace {

enum class Candidate : std::uint8_t { kPositive, kLinear };

}  // namespace
}  // namespace ls::layers

template <>
struct ls::EnumNames<ls::layers::Candidate> {
  static constexpr std::string_view kKind = "candidate";
  static constexpr std::array<std::string_view, 2> kNames = {"positive", "linear"};
};

namespace ls::layers {
namespace {

/// minGRU: h_t = (1 - z_t) h_{t-1} + z_t n_t, z = sigmoid(W_z x), n = a(W_h x), neither of which
/// sees h; a(x) = x + 1/2 for x >= 0, else sigmoid(x), or a(x) = x (Feng 2410.01201). Every h_t is
/// an average of past n. One projection without bias, its rows [W_h | -W_z]: the scan is given the
/// log of what is kept, 1 - z = sigmoid(-W_z x). The output is h, projected where it is expanded.
class MinGru final : public TokenMixer {
 public:
  struct Config {
    double expand = 1;
    Candidate candidate = Candidate::kPositive;
    template <class F>
    void fields(F& f) {
      f("expand", expand,
        {.help = "channels of h over model width; other than 1 they are projected back",
         .max = kMaxExpand,
         .above = 0});
      f("candidate", candidate,
        {.help = "what is written: positive, x + 1/2 or sigmoid(x) below 0; or linear, x itself"});
    }
  };
  MinGru(const Config& c, const MixerArgs& a)
      : candidate_(c.candidate), channels_(std::llround(c.expand * double(a.width))) {
    LS_CHECK(channels_ >= 1 && double(channels_) == c.expand * double(a.width), kConfig,
             "mingru: expand {} of width {} gives {} channels, expected a whole number, 1 or more; "
             "change expand",
             c.expand, a.width, c.expand * double(a.width));
    const Init init = Init::normal(a.init_std);
    in_ = Linear(a.scope.child("in"), a.width, 2 * channels_, init);
    if (channels_ != a.width) {
      out_ = Linear(a.scope.child("out"), channels_, a.width, init);
    }
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const auto parts = ag::split(in_(x), 2, {channels_, channels_});
    const auto gate = ag::call<ops::SigmoidGate>({.x = parts[1]});
    const ag::Var n = candidate_ == Candidate::kPositive ? positive_candidate(parts[0]) : parts[0];
    const ag::Var written = ag::call<ops::Mul>({.a = gate.k, .b = n}).y;
    const ag::Var h = seq.scan<ops::GatedScan>("scan", {.u = written, .g = gate.g}).y;
    return out_ ? (*out_)(h) : h;
  }

 private:
  Candidate candidate_;
  Index channels_;
  Linear in_;
  std::optional<Linear> out_;
};
LS_REGISTER(TokenMixer, MinGru, "mingru",
            "h = (1 - z) h + z n, gate and candidate of x alone (Feng 2024); defaults of "
            "lucidrains/minGRU-pytorch, whose gate rows are the negative of these");

}  // namespace
}  // namespace ls::layers
