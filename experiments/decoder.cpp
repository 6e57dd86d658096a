#include "experiments/decoder.h"

#include "autograd/tape.h"

namespace ls::experiments {

Tensor Decoder::feed(const Tensor& tokens) {
  const ag::NoGrad no_grad;
  const Index n = tokens.size(1);
  layers::SeqContext seq(rows_, n, {.taken = &state_, .keep_states = true});
  const Tensor h = model_.hidden({tokens.to(model_.parameters().device()), {}}, seq).value();
  state_ = std::move(seq.outgoing());
  return model_.logits(ag::Var(h.select(1, n - 1).contiguous())).value();
}

}  // namespace ls::experiments
