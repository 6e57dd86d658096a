#include "layers/mixers/cell.h"

#include <cmath>

namespace ls::layers {

CellWeights::CellWeights(const char* mixer, const MixerArgs& args, Index heads, Index gates,
                         RecurrentInit recurrent_init, Index biased_gate, double first_bias) {
  const Index width = args.width, d = width / heads;
  LS_CHECK(width % heads == 0, kConfig, "{}: {} heads do not divide width {}", mixer, heads, width);
  const double bound = 1.0 / std::sqrt(static_cast<double>(width));
  const Scope inputs = args.scope.child("in");
  in = Linear(inputs, width, gates * width, Init::uniform(-bound, bound));
  bias = inputs.param("bias", {gates * width},
                      {[=](Rng&, std::span<double> x) {
                         for (std::size_t i = 0; i < x.size(); ++i) {
                           x[i] = static_cast<Index>(i) / width == biased_gate ? first_bias : 0.0;
                         }
                       },
                       true},
                      {.decay = false});
  recurrent =
      args.scope.child("recurrent")
          .param("weight", {heads, gates * d, d},
                 recurrent_init == RecurrentInit::kOrthogonal ? Init::orthogonal(d)
                                                              : Init::uniform(-bound, bound));
}

}  // namespace ls::layers
