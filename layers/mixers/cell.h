#pragma once
// What mixers of nonlinear cells (lstm, gru) share: the input part of the gates and the recurrent
// weights, dense with one head, block-diagonal over several.
#include "layers/mixers/mixer.h"

namespace ls::layers {

enum class RecurrentInit : std::uint8_t { kUniform, kOrthogonal };

/// Weights of a cell with `gates` gates of the model's width D. First values U(+-1/sqrt(D)), the
/// recurrent ones orthogonal blocks where asked.
struct CellWeights {
  CellWeights() = default;
  /// @throws Error(Config) where `heads` do not divide the width; `mixer` names the caller
  CellWeights(const char* mixer, const MixerArgs& args, Index heads, Index gates,
              RecurrentInit recurrent_init, Index biased_gate, double first_bias);
  Linear in;          ///< x [B,T,D] -> [B,T,gates*D], without its bias
  ag::Var bias;       ///< [gates*D]: `first_bias` in the biased gate, else 0
  ag::Var recurrent;  ///< [heads,gates*d,d], D = heads d
};

}  // namespace ls::layers

template <>
struct ls::EnumNames<ls::layers::RecurrentInit> {
  static constexpr std::string_view kKind = "first recurrent weights";
  static constexpr std::array<std::string_view, 2> kNames = {"uniform", "orthogonal"};
};
