#pragma once
// What every mixer owes, checked for any mixer, hybrid and configuration.
#include <string>
#include <vector>

#include "layers/model.h"

namespace ls::test {

struct MixerCase {
  std::string name;
  layers::ModelConfig config;  ///< `dtype` and `recompute` are set by the checks
};

/// A model from YAML fields, narrow and with first weights large enough that every path carries a
/// signal: mixer_case("two heads", "layers: [{name: lstm, heads: 2}]").
MixerCase mixer_case(std::string name, const std::string& yaml);

/// Every registered mixer alone, with its defaults made small; with every other choice and switch
/// that its fields offer; in hand-picked settings; all mixers in a row; and the skeleton's own
/// choices. Names that begin with "wrong_" are left out.
std::vector<MixerCase> mixer_cases();

/// What holds of all mixers of a case: the weakest of their traits.
layers::MixerTraits traits_of(const MixerCase& mixer_case);

/// Names of the mixers in the cases above.
std::vector<std::string> right_mixers();

/// What is wrong with the model on two rows of tokens in `dtype` ("f64", "f32"), one line a fault
/// starting with the law's name; empty when nothing is. Outputs are logits; gradients are those of
/// all parameters and of the incoming states, for random cotangents of outputs and outgoing states.
/// No token stands twice, so the embedding's gradient is that of each token. Laws:
/// Of a mixer whose traits say that it is not causal: that, ranks, packed, recompute, remake and
/// derivative, without carried states.
///   causal      a change at token t leaves what was before bit for bit, and the other row; outputs
///               up to t have no gradient at later tokens, bit for bit; but t itself matters
///   split       pieces with carried states = whole: outputs, states, gradients through the states;
///               pieces of one token and empty ones included, from zero and from carried states
///   decode      token by token, the same
///   taken       token by token in the memory of states that are used up: the bits of fresh ones,
///               and no change to what others hold
///   ranks       the sequence split over three ranks, one of them without tokens, with carried
///               states, with documents, with blocks that run again: outputs, states, gradients
///               summed
///   forms       recurrent, chunk of 1, 5, 16, T tokens, parallel: the same
///   packed      packed documents, some continued and some begun anew = each alone: outputs, what
///               follows the batch, gradients summed, none into a forgotten state
///   rows        rows of a state in another order go on as the same rows
///   save        a state written to a checkpoint and read back goes on with the same bits
///   recompute   blocks that run again give the same bits, states kept or not
///   remake      so do outputs, or products too, that are made again, and memory is given back
///   derivative  gradients agree with differences (f64)
std::vector<std::string> check_mixer(const MixerCase& mixer_case, const std::string& dtype);

/// What is wrong with the law `ranks` where scans are split over three ranks by `strategy`; that it
/// serves none of them, too.
std::vector<std::string> check_ranks(const MixerCase& mixer_case, const std::string& dtype,
                                     const std::string& strategy);

/// Trains f32 on a task that only memory solves: one token of four appears somewhere among blanks
/// and has to be named from then on (chance .25). Returns the accuracy on fresh samples.
double learned_accuracy(const MixerCase& mixer_case);

}  // namespace ls::test
