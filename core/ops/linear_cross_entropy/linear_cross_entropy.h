#pragma once
#include "core/base/types.h"

namespace ls::ops {

/// Cross-entropy of softmax(x W^T) against targets, summed over those that are not `ignore_index`.
/// Logits exist for one block of tokens at a time, never as [N,V]; the gradients, for a gradient 1
/// of the loss, are formed from a block while it is there, so that nothing is computed twice. That
/// of the weight goes to its place at once where it has one: then there is no dw, and the loss must
/// have the gradient 1.
/// @shape  x [N,D], weight [V,D], targets [N] -> loss [], per_token [N] (0 where ignored),
///         predicted [N] (most likely class; ignore_index where ignored), dx [N,D] and dw [V,D]
///         unless gradients is off
/// @dtype  x, weight, dx any one float; the rest acc
/// @throws Error(Shape) on a target outside 0 .. V-1 that is not ignore_index; Error(Internal)
///         where the weight's gradient is in its place and the loss has another gradient than 1
/// @grad   of loss with respect to x and weight; per_token and predicted are for reports
/// @cost   6 * M * V * D flop with gradients, 2 * M * V * D without, for M targets that count;
///         ignored tokens cost nothing
struct LinearCrossEntropy {
  template <class T>
  struct In {
    T x, weight, targets;
  };
  template <class T>
  struct Out {
    T loss, per_token, predicted, dx, dw;
  };
  struct Attrs {
    Index ignore_index = -100;
    bool gradients = true;
    void fields(auto&& f) const {
      f("ignore_index", ignore_index, "target that does not count");
      f("gradients", gradients, "also computes those of x and weight");
    }
  };
};

}  // namespace ls::ops
