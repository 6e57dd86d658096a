#include "experiments/state_size.h"

#include <algorithm>
#include <map>
#include <set>

namespace ls::experiments {

Index zoology_state_bytes(layers::Model& model, Index tokens) {
  struct Layer {
    Index states = 0, conv = 0;
  };
  std::map<std::string, Layer> layers;  // "blocks.0"
  for (const auto& [path, slot] : model.state_after(tokens).slots) {
    Layer& layer = layers[path.substr(0, path.find('.', path.find('.') + 1))];
    const Index elements = slot.value.value().numel();
    (slot.part == layers::StatePart::kConv ? layer.conv : layer.states) += elements;
  }
  Index total = 0;
  for (const auto& [path, layer] : layers) {
    // A kernel of k taps keeps k - 1 inputs; Zoology counts all k.
    total += layer.states > 0 || layer.conv == 0 ? layer.states : layer.conv + model.config().width;
  }
  return 4 * total;
}

void measure_states(layers::Model& model, Index step, RunResult& result) {
  std::set<Index> lengths;
  for (const Evaluation& e : result.history) {
    for (const SliceResult& s : e.step == step ? e.slices : std::vector<SliceResult>()) {
      if (s.not_run.empty()) {
        lengths.insert(s.length);
      }
    }
  }
  for (const Index tokens : lengths) {
    result.state_sizes.push_back({tokens, model.measure_state(tokens)});
  }
  result.zoology_state = lengths.empty() ? 0 : zoology_state_bytes(model, *lengths.rbegin());
}

}  // namespace ls::experiments
