#include "autograd/functional.h"
#include "layers/mixers/mixer.h"

namespace ls::layers {
namespace {

/// Two mixers of one kind, one of which reads each document from its last token to the first:
/// y_t = f(x_1 .. x_t) + b(x_T .. x_t). `tied`: f and b are one mixer with one set of parameters.
/// Sums as bidirectional state-space models have them (Zhu 2401.09417; tied Schiff 2403.03234).
class Bidirectional final : public TokenMixer {
 public:
  static constexpr MixerTraits kTraits{.causal = false};
  struct Config {
    Component<TokenMixer> of{"gated_deltanet"};
    bool tied = false;
    template <class F>
    void fields(F& f) {
      f("of", of, {.help = "the mixer of either direction"});
      f("tied", tied, {.help = "both directions have the same parameters"});
    }
  };
  Bidirectional(const Config& c, const MixerArgs& a) {
    forward_ = make(c, a, c.tied ? "mixer" : "forward");
    backward_ = c.tied ? forward_ : make(c, a, "backward");
  }
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const ag::Var before = [&] {
      const SeqContext::Within place(seq, "forward");
      return forward_->forward(x, seq);
    }();
    const SeqContext::Within place(seq, "backward");
    const SeqContext::Backward scope(seq);
    return ag::add(before, seq.turned(backward_->forward(seq.turned(x), seq)));
  }

 private:
  static std::shared_ptr<TokenMixer> make(const Config& c, const MixerArgs& args,
                                          const char* name) {
    return c.of.make(args.within("of", c.of, name));
  }
  std::shared_ptr<TokenMixer> forward_, backward_;
};
LS_REGISTER(TokenMixer, Bidirectional, "bidirectional",
            "two mixers of one kind, from the first token on and from the last; not causal");

}  // namespace
}  // namespace ls::layers
