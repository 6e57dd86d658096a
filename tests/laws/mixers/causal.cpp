// No token changes what was before it, or another row.
#include "tests/laws/mixers/checker.h"

#include <algorithm>

#include "autograd/tape.h"

namespace ls::test::mixers {

void Checker::causal() {
  const Tensor tokens = main_ids();
  for (const Index t : {Index{0}, Index{7}, kTokens - 1}) {
    Tensor changed = tokens.clone();
    changed.data<std::int64_t>()[t] = 0;  // row 0
    const ag::NoGrad no_grad;
    SeqContext seq(kRows, kTokens, {.incoming = &history_});
    const Tensor out = model_->logits(model_->hidden({changed, {}}, seq)).value();
    const auto bits = [](const Tensor& x, Index row, Index a, Index b) {
      return x.slice(0, row, row + 1).slice(1, a, b).to_vector<double>();
    };
    if (bits(out, 0, 0, t) != bits(whole_.out, 0, 0, t)) {
      fault("causal", fmt::format("token {} changes an output before it", t));
    }
    if (bits(out, 1, 0, kTokens) != bits(whole_.out, 1, 0, kTokens)) {
      fault("causal", fmt::format("token {} changes another row", t));
    }
    if (bits(out, 0, t, t + 1) == bits(whole_.out, 0, t, t + 1)) {
      fault("causal", fmt::format("token {} does not matter for its own output", t));
    }
    const ag::EnableGrad enable;
    const Run r = pass(*model_, tokens, &history_, {.state_cotangents = false}, [&](Tensor d) {
      d = d.clone();
      d.slice(1, t + 1, kTokens).zero_();
      d.slice(0, 1, 2).zero_();
      return d;
    });
    const Tensor embedding = r.gradients[0];
    const Index first = tokens.data<std::int64_t>()[0];
    for (Index i = 0; i < kTokens; ++i) {
      const Tensor row = embedding.select(0, first + i);
      const std::vector<double> g = row.to_vector<double>();
      const bool zero = std::all_of(g.begin(), g.end(), [](double x) { return x == 0; });
      if (i > t && !zero && !case_.config.tie_embeddings) {
        fault("causal", fmt::format("outputs up to {} have a gradient at token {}", t, i));
        break;
      }
      if (i == t && zero) {
        fault("causal", fmt::format("the output at {} has no gradient at its own token", t));
      }
    }
  }
}

/// Where a mixer says that it is not causal.
void Checker::sees_ahead() {
  Tensor changed = main_ids().clone();
  changed.data<std::int64_t>()[kTokens - 1] = 0;
  const ag::NoGrad no_grad;
  SeqContext seq(kRows, kTokens, {.incoming = &history_});
  const Tensor out = model_->logits(model_->hidden({changed, {}}, seq)).value();
  const auto first = [](const Tensor& x) {
    return x.slice(0, 0, 1).slice(1, 0, 1).to_vector<double>();
  };
  if (first(out) == first(whole_.out)) {
    fault("causal", "the last token does not change the first output: causal after all");
  }
}

}  // namespace ls::test::mixers
