// A layer that reads in both directions on ranks that are threads of one call.
#include "parallel/sequence/thread_ranks.h"

#include <doctest/doctest.h>

#include "autograd/tape.h"
#include "layers/model.h"
#include "tests/support/mixer_laws.h"

namespace ls::parallel {

TEST_SUITE("unit") {
  TEST_CASE("parallel/sequence: both directions on threads are those of one rank") {
    test::MixerCase c = test::mixer_case(
        "both",
        "layers: [{name: bidirectional, of: {name: gated_deltanet, heads: 2, head_dim: 4}}]");
    c.config.dtype = DType::kF64;
    layers::Model model(c.config, {.vocab_in = 7, .classes = 7}, 1);
    std::vector<std::int64_t> ids;
    for (Index i = 0; i < 2 * 11; ++i) {
      ids.push_back(i % 7);
    }
    const Tensor tokens = Tensor::from(ids, {2, 11});
    const layers::DocumentStarts documents = {{4, 5}, {}};
    const auto run = [&](layers::SeqRunner* runner) {
      model.parameters().clear_grads();
      ag::Tape tape;
      layers::SeqContext seq(2, 11, {.documents = &documents, .runner = runner});
      const layers::Model::Loss loss = model.loss(model.hidden({tokens, {}}, seq), tokens);
      tape.backward(loss.sum, Tensor::full({}, DType::kF64, 1));
      std::vector<double> all = {loss.sum.value().slow_at(0)};
      for (const ag::Parameter& p : model.parameters().items()) {
        const auto g = p.var.grad().to_vector<double>();
        all.insert(all.end(), g.begin(), g.end());
      }
      return all;
    };
    const std::vector<double> want = run(nullptr);
    for (const int ranks : {2, 3}) {
      ThreadRanks threads(ranks);
      const std::vector<double> got = run(&threads);
      REQUIRE(got.size() == want.size());
      for (std::size_t i = 0; i < got.size(); ++i) {
        CHECK(got[i] == doctest::Approx(want[i]).epsilon(1e-10));
      }
    }
  }
}

}  // namespace ls::parallel
