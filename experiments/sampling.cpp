#include "experiments/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/base/error.h"

namespace ls::experiments {

Index sample_token(std::span<const float> logits, const SamplingOptions& o, Rng& rng) {
  std::vector<Index> order(logits.size());
  std::iota(order.begin(), order.end(), Index{0});
  const auto logit = [&](Index i) {
    return static_cast<double>(logits[static_cast<std::size_t>(i)]);
  };
  for (const Index i : order) {
    LS_CHECK(!std::isnan(logit(i)), kNumeric, "the model's score of token {} is not a number", i);
  }
  // Ties go to the lower token, so that the result does not depend on the sort.
  std::sort(order.begin(), order.end(),
            [&](Index a, Index b) { return logit(a) != logit(b) ? logit(a) > logit(b) : a < b; });
  if (o.temperature <= 0) {
    return order.front();
  }
  if (o.top_k > 0 && o.top_k < static_cast<Index>(order.size())) {
    order.resize(static_cast<std::size_t>(o.top_k));
  }
  std::vector<double> weight;
  double total = 0;
  for (const Index i : order) {
    weight.push_back(std::exp((logit(i) - logit(order.front())) / o.temperature));
    total += weight.back();
  }
  double kept = 0;
  std::size_t n = 0;
  while (n < weight.size() && (n == 0 || kept < o.top_p * total)) {
    kept += weight[n++];
  }
  double at = rng.uniform() * kept;
  for (std::size_t i = 0; i < n; ++i) {
    at -= weight[i];
    if (at < 0) {
      return order[i];
    }
  }
  return order[n - 1];
}

}  // namespace ls::experiments
